"""Reading a config: the same settings from every kind of file, and every problem told at once."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_bridge.config import Settings, byte_settings, load_settings, overridden, secrets_in
from data_bridge.errors import ConfigError

PUBLISHED_EXAMPLE = """\
vast:
  api_key: "..."
  offer_id: 12345
  image: "docker.io/library/pytorch:2.3.0-cuda12.1-cudnn8-runtime"
  storage_gb: 50

r2:
  account_id: "xxxx"
  access_key_id: "AKIA..."
  secret_access_key: "..."
  bucket: "train-data-bridge"
  region: "auto"

pipeline:
  name: "webdataset"
  input_uri: "hf://laion/laion2B-en"
  input_format: "huggingface"
  samples_per_shard: 2048
  source_options:
    split: "train"
    config: "default"
    load_kwargs:
      token: ${HF_TOKEN}
"""


def write(folder: Path, text: str, name: str = "c.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, name: str = "c.yaml", env: dict[str, str] | None = None) -> Settings:
    return load_settings(write(folder, text, name), env or {})


def refused(folder: Path, text: str, name: str = "c.yaml", env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, name, env)
    assert caught.value.exit_code == 2
    return caught.value.message


def test_the_published_example_loads_unchanged(tmp_path: Path) -> None:
    settings = load(tmp_path, PUBLISHED_EXAMPLE, env={"HF_TOKEN": "hf_abc"})

    assert settings.vast is not None
    assert (settings.vast.offer_id, settings.vast.storage_gb) == (12345, 50)
    assert settings.r2 is not None
    assert (settings.r2.account_id, settings.r2.bucket, settings.r2.region) == ("xxxx", "train-data-bridge", "auto")
    assert settings.pipeline.samples_per_shard == 2048
    assert settings.pipeline.source_options.split == "train"
    assert settings.pipeline.source_options.load_kwargs["token"].get_secret_value() == "hf_abc"


def test_yaml_toml_and_json_give_the_same_settings(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "pipeline": {
            "name": "webdataset",
            "input_uri": ["a.parquet", "b.parquet"],
            "samples_per_shard": 7,
            "max_shard_bytes": "1.5MB",
            "members": {"image": "jpg"},
            "source_options": {"columns": ["image", "text"]},
            "schema": {"id": "int64"},
        },
        "s3": {"region": "auto"},
    }
    toml = """
[pipeline]
name = "webdataset"
input_uri = ["a.parquet", "b.parquet"]
samples_per_shard = 7
max_shard_bytes = "1.5MB"
members = {image = "jpg"}
source_options = {columns = ["image", "text"]}
schema = {id = "int64"}
[s3]
region = "auto"
"""
    assert tomllib.loads(toml) == values

    loaded = [
        load(tmp_path, yaml.safe_dump(values), "c.yaml"),
        load(tmp_path, yaml.safe_dump(values), "c.YML"),
        load(tmp_path, toml, "c.toml"),
        load(tmp_path, json.dumps(values), "c.json"),
        load(tmp_path, "\ufeff" + json.dumps(values), "bom.json"),
    ]

    assert all(settings == loaded[0] for settings in loaded)
    assert loaded[0].pipeline.max_shard_bytes == 1_500_000
    assert loaded[0].pipeline.input_uri == ("a.parquet", "b.parquet")


@pytest.mark.parametrize(
    "text",
    [
        "pipeline:\n  input_uri: a\n  input_uri: b\n",
        "pipeline:\n  input_uri: a\n  source_options: {split: a, split: b}\n",
        "pipeline: {input_uri: a}\npipeline: {input_uri: b}\n",
    ],
)
def test_a_yaml_key_given_twice_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    message = refused(tmp_path, text)

    assert "stands twice" in message
    assert "line" in message


def test_a_toml_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "cannot be parsed" in refused(tmp_path, '[pipeline]\ninput_uri="a"\ninput_uri="b"\n', "c.toml")


def test_a_json_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "input_uri" in refused(tmp_path, '{"pipeline": {"input_uri": "a", "input_uri": "b"}}', "c.json")


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("pipeline: {input_uri: a, sampels_per_shard: 3}", "pipeline.sampels_per_shard: unknown key, did you mean `samples_per_shard`?"),
        ("pipeline: {input_uri: a, source_options: {splt: x}}", "pipeline.source_options.splt: unknown key, did you mean `split`?"),
        ("pipeline: {input_uri: a}\nr2: {accountid: x}", "r2.accountid: unknown key, did you mean `account_id`?"),
        ("pipeline: {input_uri: a}\ns3: {endpoint: x}", "s3.endpoint: unknown key, did you mean `endpoint_url`?"),
        ("pipeline: {input_uri: a}\npipelin: {}", "pipelin: unknown key, did you mean `pipeline`?"),
        ("pipeline: {input_uri: a, zzz: 1}", "pipeline.zzz: unknown key"),
        ("pipeline: {input_uri: a, schem: {}}", "pipeline.schem: unknown key, did you mean `schema`?"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_told_with_its_path_and_the_nearest_key(tmp_path: Path, block: str, said: str) -> None:
    assert said in refused(tmp_path, block).splitlines()


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    message = refused(
        tmp_path,
        "pipeline: {samples_per_shard: 0, max_shard_bytes: 1 apple, on_error: explode, source_options: {splt: 1}}\nr2: {jurisdiction: mars}",
    )

    for path in ("input_uri", "samples_per_shard", "max_shard_bytes", "on_error", "source_options.splt"):
        assert f"pipeline.{path}: " in message
    assert "r2.jurisdiction: " in message


def test_every_missing_variable_is_told_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, "pipeline: {input_uri: '${IN}/x', output_uri: '${OUT}', key_field: '${OUT}'}")

    assert message.splitlines()[1:] == [
        "pipeline.input_uri: the environment has no variable IN",
        "pipeline.output_uri: the environment has no variable OUT",
        "pipeline.key_field: the environment has no variable OUT",
    ]


def test_variables_are_filled_in_wherever_they_stand(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "pipeline: {input_uri: ['${A}/${B}.csv', 'x'], source_options: {load_kwargs: {token: '${A}', deep: {er: ['${B}']}}}}",
        env={"A": "one", "B": "two"},
    )

    assert settings.pipeline.input_uri == ("one/two.csv", "x")
    assert settings.pipeline.source_options.load_kwargs["deep"] == {"er": ["two"]}


def test_a_variable_may_hold_a_number_and_may_be_empty(tmp_path: Path) -> None:
    settings = load(
        tmp_path, "pipeline: {input_uri: a, samples_per_shard: '${N}', key_field: 'k${E}'}", env={"N": "12", "E": ""}
    )

    assert (settings.pipeline.samples_per_shard, settings.pipeline.key_field) == (12, "k")


def test_two_dollars_keep_a_variable_as_it_is_written(tmp_path: Path) -> None:
    settings = load(tmp_path, "pipeline: {input_uri: 'data/$${HOME}/${X}$5.csv'}", env={"X": "$${Y}"})

    assert settings.pipeline.input_uri == "data/${HOME}/$${Y}$5.csv"


def test_nothing_is_filled_in_that_does_not_ask_for_it(tmp_path: Path) -> None:
    settings = load(tmp_path, "pipeline: {input_uri: '$HOME/~/%HOME%'}", env={"HOME": "/root"})

    assert settings.pipeline.input_uri == "$HOME/~/%HOME%"


STORES = "r2: {bucket: b, account_id: '${ACC}'}\ns3: {access_key_id: '${KEY}'}\nvast: {api_key: '${VAST}'}\n"


@pytest.mark.parametrize(
    ("pipeline", "needed"),
    [
        ("{input_uri: a, output_uri: out}", set()),
        ("{input_uri: 's3://b/k', output_uri: out}", {"KEY"}),
        ("{input_uri: a, output_uri: 's3://b/k'}", {"KEY"}),
        ("{input_uri: ['a', 'r2://b/k'], output_uri: out}", {"ACC"}),
        ("{input_uri: 'r2://b/k', output_uri: 's3://b/k'}", {"ACC", "KEY"}),
        ("{input_uri: a}", {"ACC"}),
    ],
)
def test_only_variables_of_blocks_the_run_uses_must_exist(tmp_path: Path, pipeline: str, needed: set[str]) -> None:
    text = f"{STORES}pipeline: {pipeline}\n"

    assert load(tmp_path, text, env=dict.fromkeys(needed, "x")).pipeline
    for name in needed:
        assert f"no variable {name}" in refused(tmp_path, text, env=dict.fromkeys(needed - {name}, "x"))


@pytest.mark.parametrize(
    ("written", "size"),
    [("1", 1), (1, 1), ("500MB", 5 * 10**8), ("1.5 GB", 15 * 10**8), ("64MiB", 64 * 2**20), ("2_000kb", 2_000_000), ("1TiB", 2**40)],
)  # fmt: skip
def test_sizes(tmp_path: Path, written: str | int, size: int) -> None:
    assert load(tmp_path, json.dumps({"pipeline": {"input_uri": "a", "max_shard_bytes": written}}), "c.json").pipeline.max_shard_bytes == size  # fmt: skip


@pytest.mark.parametrize("written", ["", "MB", "1 apple", "-1MB", "1e3", "0", 0, "1,5GB", "0.2", None, [1]])
def test_what_is_no_size_is_refused(tmp_path: Path, written: object) -> None:
    text = json.dumps({"pipeline": {"input_uri": "a", "staging_bytes": written}})

    assert "pipeline.staging_bytes: " in refused(tmp_path, text, "c.json")


@pytest.mark.parametrize("key", ["staging_bytes", "samples_per_shard", "limit"])
def test_true_is_no_number(tmp_path: Path, key: str) -> None:
    assert f"pipeline.{key}: " in refused(tmp_path, f"pipeline: {{input_uri: a, {key}: true}}")


def test_an_alias_is_the_same_setting(tmp_path: Path) -> None:
    assert load(tmp_path, "pipeline: {input_uri: a, shards: 9}").pipeline.samples_per_shard == 9


def test_an_option_of_the_other_format_is_refused(tmp_path: Path) -> None:
    assert "`members` does not apply to name: litdata" in refused(
        tmp_path, "pipeline: {name: litdata, input_uri: a, members: {x: jpg}}"
    )
    assert "`compression` does not apply to name: webdataset" in refused(
        tmp_path, "pipeline: {input_uri: a, compression: zstd}"
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.yaml", "", "holds no settings"),
        ("c.yaml", "- a\n- b\n", "holds no settings"),
        ("c.yaml", "pipeline: [", "cannot be parsed"),
        ("c.json", "{", "cannot be parsed"),
        ("c.toml", "pipeline = ", "cannot be parsed"),
        ("c.ini", "x", "not a config file"),
        ("c.yaml", "{}", "pipeline: missing"),
    ],
)
def test_what_is_no_config_is_refused_by_name(tmp_path: Path, name: str, text: str, said: str) -> None:
    message = refused(tmp_path, text, name)

    assert name in message
    assert said in message


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"pipeline:\n  input_uri: caf\xe9.jsonl\n")

    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_settings(tmp_path / "c.yaml", {})


def test_a_yaml_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    assert "c.yaml" in refused(tmp_path, "? [a, b]\n: 1\npipeline: {input_uri: a}\n")


def test_a_missing_file_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config file at .*none\.yaml") as caught:
        load_settings(tmp_path / "none.yaml")

    assert "data-bridge init" in caught.value.hint


SECRETS = {
    "r2": {"access_key_id": "s3cret-1", "secret_access_key": "s3cret-2", "session_token": "s3cret-3"},
    "s3": {"access_key_id": "s3cret-4", "secret_access_key": "s3cret-5", "session_token": "s3cret-6"},
    "vast": {"api_key": "s3cret-7"},
    "pipeline": {"input_uri": "a", "source_options": {"load_kwargs": {"token": "s3cret-8"}}},
}


def test_no_secret_is_in_what_may_be_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, json.dumps(SECRETS), "c.json")

    assert "s3cret" not in json.dumps(byte_settings(settings))
    assert "s3cret" not in repr(settings) + str(settings) + settings.model_dump_json()


NESTED = {"input_uri": "a", "source_options": {"load_kwargs": {"headers": {"Authorization": "s3cret"}}}}


def test_no_secret_inside_another_value_is_stored(tmp_path: Path) -> None:
    assert "s3cret" not in json.dumps(byte_settings(load(tmp_path, json.dumps({"pipeline": NESTED}), "c.json")))


def test_no_secret_inside_another_value_is_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, json.dumps({"pipeline": NESTED}), "c.json")

    assert "s3cret" not in repr(settings)
    assert secrets_in(settings) == {"s3cret"}


def test_no_value_is_in_a_message_about_a_secret(tmp_path: Path) -> None:
    message = refused(
        tmp_path, "pipeline: {input_uri: a}\nr2: {secret_access_key: [s3cret]}\ns3: {acces_key: s3cret}\n"
    )

    assert "s3cret" not in message


def test_what_overrides_the_file_is_checked(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ValueError)):
        overridden(load(tmp_path, "pipeline: {input_uri: a}"), limit=0)


def test_flags_override_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, "pipeline: {input_uri: a, limit: 5}")

    assert overridden(settings, limit=None, allow_empty=None) == settings
    assert overridden(settings, limit=7).pipeline.limit == 7
    assert settings.pipeline.limit == 5
