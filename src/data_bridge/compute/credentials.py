"""What of the storage keys goes to a rented machine: for R2 short-lived ones that reach only this run's places.

They are minted here, without the network, from the account's key, which stays here.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from data_bridge.config import R2Settings, Section, Settings

WEEK_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Keys:
    """Blocks of the config that take the place of the user's, the variables they name, and what the user must know."""

    blocks: Mapping[str, Any]
    variables: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def keys_for(settings: Settings, uris: Sequence[str], *, now: float, hours: float) -> Keys:
    """Keys for the stores that these URIs name; the last of them is the destination."""
    blocks: dict[str, Any] = {}
    variables: dict[str, str] = {}
    warnings: list[str] = []
    for scheme, section in (("r2", settings.r2), ("s3", settings.s3)):
        used = [uri for uri in uris if uri.startswith(f"{scheme}://")]
        if not used:
            continue
        given = _minted(section, used, now, hours) if isinstance(section, R2Settings) else None
        if given is None:
            given = _configured(section)
            warnings.append(
                f"the {scheme} keys of the config go to the machine as they are, because no short-lived ones can be made; "
                "use keys that reach this run's places only"
            )
        plain = section.model_dump(exclude_none=True, exclude=set(_SECRETS)) if section is not None else {}
        blocks[scheme] = {**plain, **{name: f"${{{_variable(scheme, name)}}}" for name in given}}
        blocks[scheme].pop("profile", None)  # a name in a file of this machine
        variables |= {_variable(scheme, name): value for name, value in given.items()}
    return Keys(blocks, variables, tuple(warnings))


_SECRETS = ("access_key_id", "secret_access_key", "session_token")


def _variable(scheme: str, name: str) -> str:
    return f"DATA_BRIDGE_{scheme}_{name}".upper()


def _configured(section: Section | None) -> dict[str, str]:
    values = {name: getattr(section, name, None) for name in _SECRETS}
    return {name: value.get_secret_value() for name, value in values.items() if isinstance(value, SecretStr)}


def _minted(r2: R2Settings, uris: Sequence[str], now: float, hours: float) -> dict[str, str] | None:
    """None where there is nothing to mint from, or where one key would have to reach two buckets."""
    places = [uri.removeprefix("r2://").partition("/") for uri in uris]
    buckets = {bucket for bucket, _, _ in places}
    if r2.access_key_id is None or r2.secret_access_key is None or r2.account_id is None or len(buckets) != 1:
        return None
    if r2.session_token is not None:  # what is short-lived already cannot be made smaller
        return None
    host = urlsplit(r2.endpoint_url).netloc if r2.endpoint_url else _host(r2)
    parent = r2.access_key_id.get_secret_value()
    claims = {
        "bucket": buckets.pop(),
        "scope": "object-read-write",
        "paths": {
            "prefixPaths": sorted(
                {*(_whole_folder(key) for _, _, key in places[:-1]), f"{places[-1][2].rstrip('/')}/"}
            ),
            "objectPaths": [],
        },
        "sub": r2.account_id,
        "iss": parent,
        "aud": host,
        "iat": int(now),
        "exp": int(now + min(hours * 3600, WEEK_S)),
        "jti": secrets.token_hex(8),
    }
    token = _jwt(claims, r2.secret_access_key.get_secret_value())
    return {
        "access_key_id": parent,
        "secret_access_key": hashlib.sha256(token.encode()).hexdigest(),
        "session_token": base64.b64encode(f"jwt/{token}".encode()).decode(),
    }


def _host(r2: R2Settings) -> str:
    middle = "" if r2.jurisdiction == "default" else f"{r2.jurisdiction}."
    return f"{r2.account_id}.{middle}r2.cloudflarestorage.com"


def _whole_folder(key: str) -> str:
    """The part of a key before its first pattern, up to a folder's end."""
    plain = key[: min([key.find(c) for c in "*?[{" if c in key], default=len(key))]
    return plain if plain == key else plain.rpartition("/")[0] + "/"


def _jwt(claims: Mapping[str, Any], secret: str) -> str:
    parts = [
        _encoded(json.dumps(part, separators=(",", ":")).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    ]
    signature = hmac.new(secret.encode(), ".".join(parts).encode(), hashlib.sha256).digest()
    return ".".join([*parts, _encoded(signature)])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
