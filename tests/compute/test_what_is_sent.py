"""What goes to the machine: exactly this version, locked packages, and as few secrets as can be."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from data_bridge.compute import watchdog
from data_bridge.compute.credentials import keys_for
from data_bridge.compute.wheel import wheel
from data_bridge.config import Settings, load_settings, portable

ROOT = Path(__file__).parents[2]
R2 = {"account_id": "abc", "access_key_id": "parent", "secret_access_key": "parent-secret", "bucket": "b"}


def settings(**blocks: object) -> Settings:
    return Settings.model_validate({"pipeline": {"input_uri": "hf://a/b", "output_uri": "r2://b/out"}, **blocks})


def claims(token: str) -> dict[str, object]:
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def test_r2_keys_are_minted_for_the_runs_places_and_its_time_alone() -> None:
    made = keys_for(settings(r2=R2), ["r2://b/in/*.parquet", "r2://b/out"], now=1000.0, hours=2.0)

    assert made.warnings == ()
    token = base64.b64decode(made.variables["DATA_BRIDGE_R2_SESSION_TOKEN"]).decode().removeprefix("jwt/")
    said = claims(token)
    assert said["paths"] == {"prefixPaths": ["in/", "out/"], "objectPaths": []}
    assert (said["bucket"], said["iss"], said["aud"]) == ("b", "parent", "abc.r2.cloudflarestorage.com")
    assert (said["iat"], said["exp"]) == (1000, 8200)
    assert made.variables["DATA_BRIDGE_R2_SECRET_ACCESS_KEY"] == hashlib.sha256(token.encode()).hexdigest()
    head, _, signature = token.rpartition(".")
    wanted = hmac.new(b"parent-secret", head.encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == wanted
    assert "parent-secret" not in json.dumps([made.blocks, dict(made.variables)])


@pytest.mark.parametrize("uris", [["r2://other/in", "r2://b/out"]])
def test_where_no_short_lived_keys_can_be_made_the_configured_ones_go_with_a_warning(uris: list[str]) -> None:
    made = keys_for(settings(r2=R2), uris, now=0, hours=1)

    assert made.variables["DATA_BRIDGE_R2_SECRET_ACCESS_KEY"] == "parent-secret"
    assert len(made.warnings) == 1
    assert "parent-secret" not in json.dumps(made.blocks)


def test_the_config_that_leaves_holds_names_of_secrets_and_nothing_it_does_not_use(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "pipeline: {input_uri: hf://a/b, output_uri: 'r2://b/out', source_options: {load_kwargs: {token: '${TOKEN}'}}}\n"
        "r2: {account_id: abc, access_key_id: parent, secret_access_key: '${SECRET}', bucket: b}\n"
        "s3: {secret_access_key: '${OTHER}'}\nvast: {api_key: '${VAST_KEY}'}\n"
    )
    env = {"TOKEN": "hub-token", "SECRET": "account-secret", "OTHER": "other", "VAST_KEY": "vast-key", "HOME": "/x"}
    here = load_settings(path, env)
    made = keys_for(here, ["hf://a/b", "r2://b/out"], now=0, hours=1)

    sent = portable(path, {**made.blocks, "pipeline": {"staging_dir": "/workspace/staging"}}, env)

    assert set(json.loads(sent.text)) == {"pipeline", "r2"}
    assert sent.variables == {"TOKEN": "hub-token"}
    there = tmp_path / "there.json"
    there.write_text(sent.text)
    loaded = load_settings(there, {**sent.variables, **made.variables})
    assert loaded.r2 is not None
    assert loaded.r2.session_token is not None
    assert loaded.pipeline.model_copy(update={"staging_dir": None}) == here.pipeline
    for secret in ("hub-token", "account-secret", "other", "vast-key"):
        assert secret not in sent.text


def test_the_wheel_is_this_version_and_installs(tmp_path: Path) -> None:
    name, data = wheel()
    (tmp_path / name).write_bytes(data)
    assert wheel() == (name, data)

    with zipfile.ZipFile(tmp_path / name) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")

    assert "data_bridge/py.typed" in names
    assert "data_bridge/compute/requirements.txt" in names
    assert not [n for n in names if "__pycache__" in n]
    code = "import data_bridge, data_bridge.cli, sys; print(data_bridge.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout.startswith(str(tmp_path / "site"))
    entry = next(n for n in names if n.endswith("entry_points.txt"))
    assert "train-data-bridge = data_bridge.cli:main" in (tmp_path / "site" / entry).read_text()


def test_the_packages_that_are_sent_are_those_of_the_lock() -> None:
    words = ["uv", "export", "-q", "--frozen", "--no-dev", "--no-emit-project", "--no-header"]
    for extra in ("audio", "dedupe", "image", "text"):
        words += ["--extra", extra]

    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)

    sent = (ROOT / "src/data_bridge/compute/requirements.txt").read_text()
    assert sent == done.stdout, "uv run poe lock-remote"
    assert "--hash=sha256:" in sent


def test_the_first_script_of_a_machine_fits_the_service_and_names_no_key() -> None:
    assert len(watchdog.ONSTART) < 4000
    subprocess.run(["sh", "-n"], input=watchdog.ONSTART, text=True, check=True)
    told = watchdog.environment(
        api_url="https://x", login="ssh-ed25519 A", now=0.0, deadline=1.5, idle_s=1, linger_s=1, tick_s=0.1
    )
    assert told["DATA_BRIDGE_DEADLINE"] == "1"
    assert told["DATA_BRIDGE_TICK_S"] == "1"
