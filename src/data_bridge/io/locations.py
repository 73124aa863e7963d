"""Names of source files: schemes, braces, globs and folders, without touching any file or server."""

import re
from collections.abc import Iterable
from itertools import islice
from urllib.parse import quote, unquote, urlsplit

import msgspec

from data_bridge.errors import ConfigError

OWN_SCHEMES = ("file", "s3", "r2", "https", "http", "hf", "python")
MOST_NAMES = 1_000_000
"""Names one URI may stand for; more is taken for a typing error in a brace range."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\}")
_PIPE = re.compile(r"\s*pipe:", re.IGNORECASE)
_USER = re.compile(r"^([a-z0-9]+://)[^/@]*:[^/]*@", re.IGNORECASE)
"""A user and password where a bucket, host or organisation belongs."""
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_HUB = re.compile(
    r"hf://(?:datasets/|(?!datasets/))(?P<repo>[^/@]+/[^/@]+)(?:@(?P<rev>refs/(?:convert|pr)/[^/]+|[^/]+))?/(?P<path>.+)",
    re.DOTALL,
)


def scheme_of(uri: str) -> str:
    """`file` for a path, otherwise the scheme in lower case. Raises ConfigError for `pipe:`, which would run a shell."""
    if _PIPE.match(uri):
        raise ConfigError(
            f"pipeline.input_uri: {_command(uri)} is refused: `pipe:` sources run a shell command",
            hint="download the file first and name its path",
        )
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def _command(uri: str) -> str:
    """A `pipe:` source up to its program: what follows may hold passwords."""
    words = uri.split(":", 1)[1].split()
    return f"`pipe:{words[0].rpartition('@')[2]}`" + (" …" if words[1:] else "") if words else "`pipe:`"


def shown(uri: str) -> str:
    """The URI as it may stand in a message: without user, password and query, where signatures and tokens live."""
    match = _SCHEME.match(uri)
    if match is None:
        return uri
    if match.group(1).lower() in ("file", "s3", "r2", "hf"):
        return _USER.sub(r"\1***@", uri)
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}"


def is_glob(text: str) -> bool:
    return re.search(r"[*?]|\[[^/]*\]", text) is not None


def braces(uri: str) -> list[str]:
    """`{000..123}` and `{a,b}` written out, in the order written."""
    if "{" not in uri:
        return [uri]
    from braceexpand import braceexpand

    too_many = ConfigError(f"{shown(uri)} stands for more than {MOST_NAMES:,} names", hint="check the range in braces")
    least = 1
    for first, last, step in _RANGE.findall(uri):
        least *= 1 + abs(int(last) - int(first)) // max(1, abs(int(step or 1)))
    if least > MOST_NAMES:
        raise too_many
    try:
        names = list(islice(braceexpand(uri), MOST_NAMES + 1))
    except ValueError as error:  # UnbalancedBracesError is one
        raise ConfigError(
            f"{shown(uri)}: braces cannot be expanded: {error}",
            hint="write {000..123} or {a,b}; `\\{` is a plain brace",
        ) from error
    if len(names) > MOST_NAMES:
        raise too_many
    return names


def missing_names(uri: str, missing: list[str]) -> ConfigError:
    """One error for every name of a URI that stands for nothing."""
    first = ", ".join(shown(name) for name in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    subject = f"{shown(uri)}: " if missing != [uri] else ""
    what = "matches no file" if any(is_glob(name) for name in missing) else "does not exist"
    return ConfigError(f"{subject}{first}{more} {what}", hint="check the spelling, and that the file is there")


def is_marked(name: str) -> bool:
    """Left out of a folder or prefix: hidden, or put there by a tool (`_SUCCESS`, `_temporary`)."""
    return name.startswith((".", "_"))


def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression over a whole `/`-separated name: `*` and `?` stay within one part, `**/` spans any."""
    out: list[str] = []
    at = 0
    while at < len(glob):
        starts_part = at == 0 or glob[at - 1] == "/"
        visible = r"(?!\.)" if starts_part else ""
        if starts_part and glob.startswith("**/", at):
            out.append(r"(?:(?!\.)[^/]+/)*")
            at += 3
        elif starts_part and glob[at:] == "**":
            out.append(r"(?:(?!\.)[^/]+/)*(?!\.)[^/]+")
            at += 2
        elif glob[at] == "*":
            out.append(visible + "[^/]*")
            at += 1
        elif glob[at] == "?":
            out.append(visible + "[^/]")
            at += 1
        elif set_ := re.compile(r"\[([!^]?)(\]?[^/\]]*)\]").match(glob, at):
            body = re.sub(r"([\\\[&~|])", r"\\\1", set_.group(2))
            out.append(f"{visible}(?!/)[{'^' if set_.group(1) else ''}{body}]" if body else re.escape(set_.group()))
            at = set_.end()
        else:
            out.append(re.escape(glob[at]))
            at += 1
    return re.compile("".join(out), re.DOTALL)


def check_bucket(scheme: str, bucket: str) -> None:
    """Raises ConfigError for what can be no bucket's name; it may hold a password and is not repeated."""
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(
            f"a URI of {scheme}:// names no bucket, or one with characters that no bucket's name has",
            hint=f"write {scheme}://bucket/key; keys and passwords belong in the `{scheme}` block of the config",
        )


class Bucketed(msgspec.Struct, frozen=True):
    """An `s3://` or `r2://` URI taken apart. Keys are literal: `?`, `#` and `%` have no meaning in them."""

    scheme: str
    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "Bucketed":
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        check_bucket(scheme.lower(), bucket)
        return cls(scheme.lower(), bucket, key)

    def uri(self, key: str) -> str:
        return f"{self.scheme}://{self.bucket}/{key}"

    @property
    def listed_prefix(self) -> str | None:
        """What to list to find every match; None when the URI is one object's."""
        if is_glob(self.key):
            return re.split(r"[*?\[]", self.key, maxsplit=1)[0]
        return self.key if not self.key or self.key.endswith("/") else None

    def matching(self, keys: Iterable[str]) -> list[str]:
        """The listed keys that this glob or prefix stands for, sorted bytewise."""
        if is_glob(self.key):
            pattern = glob_pattern(self.key)
            chosen = [key for key in keys if pattern.fullmatch(key) and not key.endswith("/")]
        else:
            below = len(self.key)
            chosen = [key for key in keys if not key.endswith("/") and not any(map(is_marked, key[below:].split("/")))]
        return sorted(chosen, key=str.encode)


def check_url(url: str) -> str:
    """An http(s) URL that names one file. Raises ConfigError for a glob or for credentials in it."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ConfigError(f"{shown(url)} names no host", hint="write https://host/path")
    if "@" in parts.netloc:
        raise ConfigError(
            f"{shown(url)} holds a user or password, which would end up in the plan and the manifest",
            hint="use a presigned URL, or download the file first",
        )
    if is_glob(parts.path):
        raise ConfigError(
            f"{shown(url)}: a web server cannot be listed, so globs do not work over {parts.scheme}://",
            hint="name the files with braces, {000..123}, or in a list",
        )
    if parts.path.endswith("/") or not parts.path:
        raise ConfigError(
            f"{shown(url)} names a folder, and a web server cannot be listed",
            hint="name the files with braces or in a list",
        )
    return url


def check_hub_uri(uri: str) -> str:
    """An `hf://` URI that names one file. Raises ConfigError for a glob."""
    hub_url(uri, "")
    if is_glob(uri):
        raise ConfigError(
            f"{uri}: globs do not work over hf://",
            hint="name the dataset (hf://org/name), or its files with braces or in a list",
        )
    return uri


def hub_url(uri: str, endpoint: str) -> str:
    """`hf://datasets/org/name@rev/path` -> the URL that serves the file. Raises ConfigError when it names no file."""
    match = _HUB.fullmatch(uri)
    if match is None or match["path"].endswith("/"):
        raise ConfigError(
            f"{shown(uri)} names no file of a Hub dataset", hint="write hf://datasets/org/name@revision/path/to/file"
        )
    revision = quote(unquote(match["rev"] or "main"), safe="")
    return f"{endpoint}/datasets/{match['repo']}/resolve/{revision}/{quote(match['path'], safe='/')}"
