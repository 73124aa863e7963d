"""Which store a URI opens."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from data_bridge.config import PipelineSettings, R2Settings, S3Settings, Settings
from data_bridge.errors import ConfigError
from data_bridge.storage import open_store
from data_bridge.storage.local import LocalStore
from data_bridge.storage.r2 import R2Client

R2 = R2Settings(account_id="acc", access_key_id=SecretStr("k"), secret_access_key=SecretStr("hush-hush"))


def settings(r2: R2Settings | None = None, s3: S3Settings | None = None) -> Settings:
    return Settings(pipeline=PipelineSettings(input_uri="x"), r2=r2, s3=s3)


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        ("/data/out", "/data/out"),
        ("/data/out/", "/data/out"),
        ("file:///data/out", "/data/out"),
        ("file:///data/my%20out", "/data/my out"),
        ("file://localhost/data/out", "/data/out"),
        ("/data/a:b", "/data/a:b"),
    ],
)
def test_paths_open_folders(uri: str, root: str) -> None:
    store = open_store(uri, settings())

    assert isinstance(store, LocalStore)
    assert store.local_root == Path(root)


def test_a_folder_opens_again_by_its_own_uri(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a b%20c#d?"), settings())

    assert open_store(store.uri, settings()).local_root == store.local_root


def test_a_relative_path_is_below_the_working_folder_and_a_tilde_is_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")

    assert open_store("out", settings()).local_root == tmp_path / "out"
    assert open_store("~/out", settings()).local_root == Path("/home/someone/out")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/some/prefix", "s3://bucket/some/prefix"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("r2://bucket/prefix", "r2://bucket/prefix"),
    ],
)
def test_buckets_open_by_their_scheme(uri: str, shown: str) -> None:
    store = open_store(uri, settings(r2=R2))

    assert isinstance(store, R2Client)
    assert store.uri == shown
    assert store.local_root is None


def test_each_scheme_uses_its_own_credentials() -> None:
    both = settings(
        r2=R2,
        s3=S3Settings(endpoint_url="https://s3.test", access_key_id=SecretStr("k"), secret_access_key=SecretStr("s")),
    )

    assert open_store("r2://b/p", both).presign("k", 60).startswith("https://acc.r2.cloudflarestorage.com/b/p/k?")
    assert open_store("s3://b/p", both).presign("k", 60).startswith("https://s3.test/b/p/k?")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("r2://bucket/prefix", "needs the r2 block"),
        ("s3:///prefix", "names no bucket"),
        ("gs://bucket/prefix", "unknown kind of destination"),
        ("https://host/x", "unknown kind of destination"),
        ("file://elsewhere/data", "not a path on this machine"),
        ("file://data", "not a path on this machine"),
        ("/", "not a folder to write to"),
        ("", "not a folder to write to"),
        ("file:///", "not a folder to write to"),
    ],
)
def test_what_names_no_destination_is_a_config_error(uri: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_store(uri, settings())


def test_a_folder_never_loads_an_s3_client(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from data_bridge.config import PipelineSettings, Settings\n"
        "from data_bridge.storage import open_store\n"
        "store = open_store(sys.argv[1], Settings(pipeline=PipelineSettings(input_uri='x')))\n"
        "store.probe('p')\n"
        "store.put_bytes('k', b'x')\n"
        "print(sorted({'boto3', 'botocore'} & set(sys.modules)))\n"
    )

    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    child = subprocess.run(command, capture_output=True, text=True, check=True)

    assert child.stdout.strip() == "[]"
