"""Destinations: where shards, the ledger and the manifest go."""

import re
from pathlib import Path
from urllib.parse import unquote

from data_bridge.config import Settings
from data_bridge.errors import ConfigError
from data_bridge.model.store import ObjectStore
from data_bridge.storage.local import LocalStore

_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_KINDS = "use a path, file://, s3:// or r2://"


def open_store(uri: str, settings: Settings) -> ObjectStore:
    """The destination a URI names: a path, `file://`, `s3://bucket/prefix` or `r2://bucket/prefix`.

    Nothing is sent or created yet. Raises ConfigError for a URI or settings that name no destination.
    """
    scheme, separator, rest = uri.partition("://")
    if uri.strip().lower().startswith("pipe:"):
        raise ConfigError("pipe: destinations are refused, because they run a shell command", hint=_KINDS)
    if not separator:
        return LocalStore(_folder(uri, uri))
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise ConfigError(
                f"file://{host.rpartition('@')[2]}/{path} is not a path on this machine",
                hint="write file:///folder, or just the path",
            )
        return LocalStore(_folder(f"/{unquote(path)}", uri))
    if scheme not in ("s3", "r2"):
        raise ConfigError(f"{scheme}://: unknown kind of destination", hint=_KINDS)
    return _open_bucket(uri, scheme, rest, settings)


def _folder(path: str, uri: str) -> Path:
    if not path.strip("/ ") or "\0" in path:
        raise ConfigError(f"{uri!r} is not a folder to write to", hint="name a folder of its own for the dataset")
    return Path(path).expanduser()


def _open_bucket(uri: str, scheme: str, rest: str, settings: Settings) -> ObjectStore:
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):  # it may hold a password: not repeated
        raise ConfigError(
            f"the {scheme}:// destination names no bucket, or one with characters that no bucket's name has",
            hint=f"write {scheme}://bucket/prefix; keys and passwords belong in the `{scheme}` block of the config",
        )
    if scheme == "r2" and settings.r2 is None:
        raise ConfigError(
            f"{uri} needs the r2 block of the config", hint="add r2.account_id and its keys, or use s3://"
        )
    # a folder as destination must not pay for loading an S3 client
    from data_bridge.storage.r2 import R2Client

    return R2Client(settings.r2 if scheme == "r2" else settings.s3, bucket, prefix, scheme=scheme)
