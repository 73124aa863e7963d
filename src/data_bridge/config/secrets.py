"""What must never be shown: secret values of the settings, and names that sound like secrets."""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, SecretStr

SECRET_WORDS = (
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "api_key",
    "apikey",
    "access_key",
    "private_key",
    "authorization",
    "cookie",
    "storage_options",
    "headers",
)
"""A name that contains one of them, anywhere, is that of a secret."""
SHORT_WORDS = frozenset({"pwd", "bearer", "jwt", "dsn"})
"""These must be a word of the name, not letters in the middle of one: `feedsname` holds no DSN."""


SHORTEST_SECRET = 6
"""A shorter one would be taken out of the middle of words."""
_TOKENS_OF_TEXT = re.compile(
    r"tokeni[sz](?:e|er|ed|ers|ing|ation)(?=_|$)"
    r"|(?:max|min|num|total|input|output|prompt|completion|special)_(?:new_|input_|output_)?tokens(?=_|$)"
    r"|(?:pad|bos|eos|unk|cls|sep|mask|stop)_token(?=_ids?$|$)"
)
"""Names that speak of pieces of text: how many, which ones, what makes them. `tokenizer_token` is a secret all the same."""


def is_secret_name(name: object) -> bool:
    """Whether what is called so must not be shown; `-` counts as `_`."""
    plain = _TOKENS_OF_TEXT.sub("", str(name).lower().replace("-", "_"))
    return any(word in plain for word in SECRET_WORDS) or not SHORT_WORDS.isdisjoint(re.split("[^a-z0-9]+", plain))


def with_hidden_secrets(value: Any, *, secret: bool = False) -> Any:
    """A value of the config with every text under a name that sounds like a secret made a SecretStr."""
    if isinstance(value, dict):
        return {k: with_hidden_secrets(v, secret=secret or is_secret_name(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [with_hidden_secrets(v, secret=secret) for v in value]
    return SecretStr(value) if secret and isinstance(value, str) else value


Hidden = Annotated[dict[str, Any], AfterValidator(with_hidden_secrets)]
"""A block of the config in which what sounds like a secret is one: it must not appear in a repr either."""


def with_open_secrets(value: Any) -> Any:
    """The reverse of `with_hidden_secrets`: for the library that needs them, and nobody else."""
    if isinstance(value, dict):
        return {k: with_open_secrets(v) for k, v in value.items()}
    if isinstance(value, list):
        return [with_open_secrets(v) for v in value]
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def public_value(value: Any) -> Any:
    """A JSON value as it may be stored: no mapping entry whose name sounds like a secret (`load_kwargs.token`), and in
    no address at any depth a password or a signature."""
    if isinstance(value, str):
        return public_uri(value)
    if isinstance(value, dict):
        return {k: public_value(v) for k, v in value.items() if not is_secret_name(k)}
    return [public_value(v) for v in value] if isinstance(value, list) else value


def secrets_in(settings: BaseModel) -> set[str]:
    """Every secret value of the settings: what no message may contain."""
    return {s for s in _secret_values(settings) if s}


def hidden_in(settings: BaseModel) -> set[str]:
    """Those of `secrets_in` that are long enough to be taken out of messages."""
    return {s for s in secrets_in(settings) if len(s) >= SHORTEST_SECRET}


def _secret_values(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secret_values(getattr(value, name))
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _secret_values(inner)


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>|]+")


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets, and without passwords and signatures of the addresses in it: every word that
    leaves a run, to a screen or a file, goes through here."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _ADDRESS.sub(lambda m: public_uri(m[0]), text) if "://" in text else text


_SECRET_PARAMETERS = (
    "signature",
    "sig",
    "x-amz-credential",
    "awsaccesskeyid",
    "googleaccessid",
    "key-pair-id",
    "policy",
    "key",
    "apikey",
    "auth",
    "pass",
    "passwd",
    "pwd",
    "jwt",
    "sas",
)


def public_uri(uri: str) -> str:
    """An address without user and password, a web address also without the query parameters that sign it: what may be
    stored, shown and compared.

    A presigned address changes each time it is made; this part of it stays.
    """
    scheme, colon, _ = uri.partition("://")
    if not colon or scheme.lower() not in ("http", "https"):
        return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/@\s]*:[^/@\s]*@", r"\1", uri)
    parts = urlsplit(uri)
    query = [p for p in re.split("[&;]", parts.query) if p and not _is_secret_parameter(p.partition("=")[0])]
    if any(p.lower().startswith("x-amz-") for p in query):
        query = [p for p in query if not p.lower().startswith("x-amz-")]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "&".join(query), parts.fragment))


def _is_secret_parameter(name: str) -> bool:
    return is_secret_name(name) or name.lower() in _SECRET_PARAMETERS or "signature" in name.lower()
