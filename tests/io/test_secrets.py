"""Passwords and signatures in URIs stay out of every message."""

import pytest
from support.http_server import HttpServer

from data_bridge.config import Settings, public_uri
from data_bridge.errors import BridgeError, ConfigError
from data_bridge.io.locations import shown
from data_bridge.io.sources.stream import SampleStream
from data_bridge.storage import open_store

SECRET = "hunter2-of-the-config"


def words_of(error: BridgeError) -> str:
    """Everything a person may see of an error, its causes included."""
    seen: BaseException | None = error
    text = ""
    while seen is not None:
        text += f"{seen} {getattr(seen, 'hint', '')} "
        seen = seen.__cause__
    return text


@pytest.mark.parametrize(
    "uri",
    [
        f"pipe:curl -u me:{SECRET} https://host/x",
        f"  PIPE:{SECRET}@program",
        f"s3://me:{SECRET}@bucket/x.jsonl",
        f"r2://me:{SECRET}@bucket/x.jsonl",
        f"hf://me:{SECRET}@org/name",
        f"hf://me:{SECRET}@org/name/data/x.jsonl",
        f"https://me:{SECRET}@host/x.jsonl",
        f"ftp://me:{SECRET}@host/x.jsonl",
        f"foo://me:{SECRET}@host/x.jsonl",
        f"file://me:{SECRET}@host/x.jsonl",
        f"https://host/*.jsonl?sig={SECRET}",
    ],
)
def test_a_refused_source_is_named_without_its_password(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SampleStream(Settings.model_validate({"pipeline": {"input_uri": uri}, "r2": {"account_id": "a"}})).listing()

    assert SECRET not in words_of(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://me:{SECRET}@bucket/out",
        f"r2://me:{SECRET}@bucket/out",
        f"file://me:{SECRET}@host/out",
        f"https://me:{SECRET}@host/out?sig={SECRET}",
        f"pipe:curl -u me:{SECRET} https://host/x",
    ],
)
def test_a_refused_destination_is_named_without_its_password(uri: str) -> None:
    settings = Settings.model_validate({"pipeline": {"input_uri": "x"}, "r2": {"account_id": "a"}})

    with pytest.raises(ConfigError) as caught:
        open_store(uri, settings)

    assert SECRET not in words_of(caught.value)
    assert caught.value.hint


def test_names_with_an_at_sign_are_shown_as_they_are() -> None:
    names = [
        "hf://org/name@main",
        "hf://squad@v1",
        "s3://bucket/a@b:c.jsonl",
        "/data/x:y@z.jsonl",
        "hf://datasets/o/n@refs/pr/1",
    ]

    assert [shown(name) for name in names] == names


@pytest.mark.parametrize("name", ["key", "auth", "pwd", "access_token", "x-goog-signature", "sig", "Signature"])
def test_no_signing_parameter_is_kept(name: str) -> None:
    assert public_uri(f"https://host/x.jsonl?a=1&{name}={SECRET}") == "https://host/x.jsonl?a=1"
    assert SECRET not in public_uri(f"https://host/x.jsonl?a=1;{name}={SECRET}")


def test_two_addresses_that_only_their_signature_tells_apart_are_refused() -> None:
    """Both would be one file in the plan, and the second would be read twice."""
    with HttpServer() as server:
        one, other = (server.serve(f"/x.jsonl?token={token}", b'{"a": 1}\n') for token in (SECRET, "other"))
        uris = [one.url, other.url]
        with pytest.raises(ConfigError, match="named twice") as caught:
            SampleStream(Settings.model_validate({"pipeline": {"input_uri": uris}})).listing()

    assert SECRET not in words_of(caught.value)
