"""What of the config decides bytes, and is recorded and compared."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from data_bridge.config import (
    Section,
    Settings,
    byte_settings,
    changed_values,
    config_hash,
    is_secret_name,
    public_uri,
    secrets_in,
)


def make(**pipeline: Any) -> Settings:
    return Settings.model_validate({"pipeline": {"input_uri": "a.jsonl", **pipeline}})


def sections(root: type[Section] = Section) -> Iterator[type[Section]]:
    for child in root.__subclasses__():
        yield child
        yield from sections(child)


def test_every_setting_says_whether_it_changes_bytes() -> None:
    unmarked = [
        f"{section.__name__}.{name}"
        for section in sections()
        for name, info in section.model_fields.items()
        if not isinstance(info.json_schema_extra, dict) or not isinstance(info.json_schema_extra.get("byte"), bool)
    ]

    assert len(list(sections())) >= 6
    assert unmarked == []


def test_every_setting_is_described() -> None:
    assert [
        f"{s.__name__}.{name}" for s in sections() for name, info in s.model_fields.items() if not info.description
    ] == []


def test_no_secret_is_marked_as_changing_bytes() -> None:
    marked = [
        f"{section.__name__}.{name}"
        for section in sections()
        for name, info in section.model_fields.items()
        if (SecretStr.__name__ in str(info.annotation) or is_secret_name(name))
        and isinstance(info.json_schema_extra, dict)
        and info.json_schema_extra["byte"]
    ]

    assert marked == []


@pytest.mark.parametrize(
    "name",
    [
        "api-key",
        "X-Api-Key",
        "apikey",
        "ACCESS-KEY",
        "private-key",
        "private_key_file",
        "pwd",
        "db_pwd",
        "db.pwd",
        "passwd",
        "passphrase",
        "Cookie",
        "set-cookie",
        "cookies",
        "bearer",
        "jwt",
        "id-jwt",
        "dsn",
        "SENTRY_DSN",
        "hf_token",
        "max_token",
        "tokenizer_token",
        "tokenizer_api_key",
        "api_tokens",
        "eos_token_secret",
        "stop-session-token",
    ],
)
def test_names_of_secrets_are_known_however_they_are_written(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("keyboard", "key", "keys", "feedsname", "jwts_seen", "cwd", "pass", "path", "forbearers"),
        *("tokenizer", "tokenizer_path", "max_tokens", "max-new-tokens", "special_tokens", "pad_token", "eos_token_id"),
    ],
)
def test_names_that_only_look_like_it_are_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


def test_options_that_speak_of_tokens_of_text_decide_bytes_and_secrets_do_not() -> None:
    options = {"tokenizer": "words.json", "pad_token": "<pad>", "block": 4, "hf_token": "hf_abc"}

    recorded = byte_settings(make(stages=[{"tokenize": options}]))

    assert recorded["stages"][0]["options"] == {"tokenizer": "words.json", "pad_token": "<pad>", "block": 4}


BYTE_CHANGES: list[dict[str, Any]] = [
    {"input_uri": "b.jsonl"},
    {"input_format": "text"},
    {"samples_per_shard": 7},
    {"max_shard_bytes": "1GB"},
    {"output_format": "tar.gz"},
    {"members": {"a": "txt"}},
    {"key_field": "id"},
    {"schema": {"id": "int64"}},
    {"on_error": "skip"},
    {"partition_bytes": "1MB"},
    {"limit": 3},
    {"source_options": {"split": "train"}},
    {"source_options": {"load_kwargs": {"data_dir": "x"}}},
]
OTHER_CHANGES: list[dict[str, Any]] = [
    {"output_uri": "elsewhere"},
    {"workers": 3},
    {"upload_concurrency": 9},
    {"staging_dir": "/somewhere"},
    {"staging_bytes": "1GB"},
    {"memory_bytes": "1GB"},
    {"hang_timeout_s": 5},
    {"max_failures": 1},
    {"allow_empty": True},
    {"source_options": {"load_kwargs": {"token": "hf_abc"}}},
]


@pytest.mark.parametrize("change", BYTE_CHANGES, ids=json.dumps)
def test_a_setting_that_changes_bytes_changes_the_hash(change: dict[str, Any]) -> None:
    assert config_hash(byte_settings(make(**change))) != config_hash(byte_settings(make()))
    assert changed_values(byte_settings(make()), make(**change)) is not None


@pytest.mark.parametrize("change", OTHER_CHANGES, ids=json.dumps)
def test_a_setting_that_changes_none_leaves_the_hash(change: dict[str, Any]) -> None:
    assert config_hash(byte_settings(make(**change))) == config_hash(byte_settings(make()))
    assert changed_values(byte_settings(make()), make(**change)) is None


def test_stores_and_their_keys_leave_the_hash() -> None:
    stores = {
        "r2": {"bucket": "b", "account_id": "a", "secret_access_key": "one"},
        "s3": {"endpoint_url": "https://one", "region": "x", "access_key_id": "k"},
        "vast": {"api_key": "v", "offer_id": 4},
    }
    settings = Settings.model_validate({"pipeline": {"input_uri": "a.jsonl"}, **stores})

    assert byte_settings(settings) == byte_settings(make())


def test_a_value_written_another_way_is_the_same() -> None:
    assert byte_settings(make(max_shard_bytes="1GB", shards=5)) == byte_settings(
        make(max_shard_bytes=10**9, samples_per_shard=5)
    )
    assert byte_settings(make(members={"a": "txt", "b": "jpg"})) == byte_settings(
        make(members={"b": "jpg", "a": "txt"})
    )


def test_byte_settings_are_plain_json() -> None:
    values = byte_settings(make(source_options={"columns": ["a"], "load_kwargs": {"x": [1, {"y": None}]}}))

    assert json.loads(json.dumps(values)) == values


def recorded_without(values: dict[str, Any], *path: str) -> dict[str, Any]:
    """As an older version, which did not know the setting, has recorded it."""
    copy: dict[str, Any] = json.loads(json.dumps(values))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return copy


@pytest.mark.parametrize("path", [("litdata_layout",), ("source_options", "quotes")])
def test_a_setting_that_a_later_version_added_is_unchanged_while_it_has_its_default(path: tuple[str, ...]) -> None:
    before = recorded_without(byte_settings(make()), *path)

    assert changed_values(before, make()) is None


def test_a_setting_that_a_later_version_added_counts_once_it_is_set() -> None:
    before = recorded_without(byte_settings(make()), "source_options", "quotes")

    now = changed_values(before, make(source_options={"quotes": False}))

    assert now is not None
    assert now["source_options"]["quotes"] is False


def test_an_option_taken_away_again_counts_as_changed() -> None:
    assert changed_values(byte_settings(make(limit=5)), make()) is not None
    assert changed_values(byte_settings(make(source_options={"split": "a"})), make()) is not None


SIGNED = "https://bucket.example.com/a.csv?versionId=7&X-Amz-Signature={s}&X-Amz-Date={s}&X-Amz-Expires=60"


def test_a_new_signature_of_a_web_address_is_no_change() -> None:
    first, second = make(input_uri=SIGNED.format(s="aaa")), make(input_uri=SIGNED.format(s="bbb"))

    assert changed_values(byte_settings(first), second) is None
    assert "aaa" not in json.dumps(byte_settings(first))
    assert "versionId=7" in json.dumps(byte_settings(first))
    assert changed_values(byte_settings(first), make(input_uri=SIGNED.format(s="b").replace("=7", "=8"))) is not None


def test_lists_of_signed_addresses_are_cleaned_too() -> None:
    assert "aaa" not in json.dumps(byte_settings(make(input_uri=[SIGNED.format(s="aaa")] * 2)))


def test_signed_addresses_inside_options_are_cleaned_too() -> None:
    first, second = (
        make(stages=[{"map": {"call": "a:b", "arguments": {"x": [SIGNED.format(s=s)]}}}]) for s in ("aaa", "bbb")
    )

    assert "aaa" not in json.dumps(byte_settings(first))
    assert "versionId=7" in json.dumps(byte_settings(first))
    assert changed_values(byte_settings(first), second) is None


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("https://u:p@host:8443/a?b=1#f", "https://host:8443/a?b=1#f"),
        ("https://host/a?sv=2022&sig=abc", "https://host/a?sv=2022"),
        ("https://host/a?Signature=x&Expires=1&Key-Pair-Id=y&v=2", "https://host/a?Expires=1&v=2"),
        ("https://host/a?download=true", "https://host/a?download=true"),
        ("https://host/a?access_token=x", "https://host/a"),
        ("s3://bucket/key?token=part-of-the-name", "s3://bucket/key?token=part-of-the-name"),
        ("folder/file?sig=1", "folder/file?sig=1"),
    ],
)
def test_public_uri(uri: str, public: str) -> None:
    assert public_uri(uri) == public


def test_all_secret_values_of_the_settings_are_known() -> None:
    settings = Settings.model_validate(
        {
            "pipeline": {"input_uri": "a", "source_options": {"load_kwargs": {"token": "one", "data_dir": "plain"}}},
            "r2": {"secret_access_key": "two", "access_key_id": "three", "session_token": "four", "bucket": "plain"},
            "s3": {"secret_access_key": "five"},
            "vast": {"api_key": "six"},
        }
    )

    assert secrets_in(settings) >= {"one", "two", "three", "four", "five", "six"}
    assert "plain" not in secrets_in(settings)
