"""What `datasets` and `huggingface_hub` raise, in our own words."""

from collections.abc import Generator
from contextlib import contextmanager

from data_bridge.errors import BridgeError, ConfigError, RetryableError, SourceError

_ACCESS = "check the name; for a private dataset set HF_TOKEN, or pipeline.source_options.load_kwargs.token"
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})


@contextmanager
def hub_errors(what: str) -> Generator[None]:
    """The boundary: loaders run arbitrary library code, so anything may come out of them."""
    try:
        yield
    except BridgeError:
        raise
    except Exception as error:
        raise _translated(what, error) from error


def _translated(what: str, error: Exception) -> BridgeError:
    # by name: this module stays free of the libraries, and the names are the same in all their versions
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = " ".join(str(error).split())[:500]
    if "GatedRepoError" in kinds:
        return ConfigError(
            f"{what} is gated, and this account has no access",
            hint="accept its terms on the dataset's page, then set HF_TOKEN or pipeline.source_options.load_kwargs.token",
        )
    if "RevisionNotFoundError" in kinds:
        return ConfigError(f"{what}: the dataset has no such revision", hint="name a branch, a tag or a commit")
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return ConfigError(f"{what} does not exist, or is private", hint=_ACCESS)
    if "HFValidationError" in kinds:
        return ConfigError(f"{what}: {text}", hint="write hf://org/name or hf://org/name@revision")
    if kinds & {"EmptyDatasetError", "DataFilesNotFoundError"}:
        return ConfigError(f"{what} has no data files that `datasets` can read", hint="check the repository")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return ConfigError(
            f"{what}: the Hub refused access", hint="the token is wrong or expired: `hf auth login`, or HF_TOKEN"
        )
    if status in _TEMPORARY or _is_network(error):
        return RetryableError(f"{what}: the Hub cannot be reached ({type(error).__name__})", hint="try again later")
    return SourceError(
        f"{what}: `datasets` cannot read it: {type(error).__name__}: {text}",
        hint="see whether datasets.load_dataset reads it; pipeline.source_options.load_kwargs is passed on to it",
    )


def _is_network(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, is of the connection: of Python, httpx or requests."""
    while error is not None:
        modules = {t.__module__.partition(".")[0] for t in type(error).__mro__}
        names = {t.__name__ for t in type(error).__mro__}
        transport = names & {"TransportError", "ConnectionError", "Timeout", "ChunkedEncodingError"}
        if isinstance(error, ConnectionError | TimeoutError) or (
            transport and modules & {"httpx", "httpx2", "requests", "aiohttp"}
        ):
            return True
        error = error.__cause__
    return False
