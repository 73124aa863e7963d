"""Sources of a user's own: a function or class named in `input_uri` as `python://package.module:name`."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, ValidationError

from data_bridge.config import explained
from data_bridge.config.calls import code_version, load
from data_bridge.errors import BridgeError, ConfigError
from data_bridge.model.batch import Row
from data_bridge.model.source import Field, SourceFile

SCHEME = "python://"
GROUP = "data_bridge.sources"
"""Entry points of other packages: sources, and formats."""
_ARGUMENTS = "pipeline.source_options.arguments"


class SourceSettings(BaseModel):
    """Base of a source's options: closed, frozen, checked when the plan is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceStage(ABC):
    """A source. Made once in each process; the constructor opens nothing.

    The same options must always give the same samples in the same order: a run that died goes on in the middle of a part.
    """

    Options: ClassVar[type[BaseModel]] = SourceSettings

    def __init__(self, options: Any) -> None:
        self.options = options

    def parts(self) -> Sequence[str]:
        """Names of what can be read independently; workers share them, and samples are in their order. One may be added
        later, none may change."""
        return ("",)

    def version(self) -> str:
        """What tells this content from another; the file that the class is written in is told apart already."""
        return ""

    def fields(self) -> Sequence[Field] | None:
        """The fields of all samples, or None where the first ones tell."""
        return None

    @abstractmethod
    def read(self, part: str, start: int) -> Iterator[Row]:
        """The samples of a part in order, from the `start`-th on. One that is no dictionary is a failed sample; an
        exception ends the run, and the next one goes on from the last shard."""


class _Function(SourceStage):
    """A function that yields samples: of an argument `start` on, if it has one."""

    def __init__(self, function: Callable[..., Iterator[Row]], arguments: dict[str, Any]) -> None:
        super().__init__(None)
        self._function = function
        self._arguments = arguments
        self._seeks = _seeks(function, arguments)

    def read(self, part: str, start: int) -> Iterator[Row]:
        del part
        if self._seeks:
            yield from self._function(start=start, **self._arguments)
            return
        for number, row in enumerate(self._function(**self._arguments)):
            if number >= start:
                yield row


def source_of(uri: str, arguments: dict[str, Any]) -> SourceStage:
    """The source that `python://…` names. Raises ConfigError for one there is not, and for options it refuses."""
    call = _call_of(uri)
    found = load(call)
    if not inspect.isclass(found):
        with _foreign(call, "looking at its arguments"):
            return _Function(found, arguments)
    if not issubclass(found, SourceStage):
        raise ConfigError(f"{call} is no source", hint="a source is a function that yields samples, or a SourceStage")
    try:
        options = found.Options.model_validate(arguments)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(
                f"{_ARGUMENTS}: {explained(e, found.Options)}"
                for e in error.errors(include_input=False, include_url=False)
            )
        ) from None
    with _foreign(call, "making it"):
        return found(options)


def _seeks(function: Callable[..., Any], arguments: dict[str, Any]) -> bool:
    """Whether a function takes `start`. Raises ConfigError for arguments that it does not take."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # one written in C may not say what it takes
        return False
    seeks = "start" in signature.parameters
    if seeks and "start" in arguments:
        raise ConfigError(
            f"{_ARGUMENTS}: `start` says where a run goes on, and is not for a config",
            hint="name the argument otherwise",
        )
    try:
        signature.bind(**arguments, **({"start": 0} if seeks else {}))
    except TypeError as error:
        raise ConfigError(f"{_ARGUMENTS}: {error}", hint="give what the function of the source takes") from None
    return seeks


@contextmanager
def _foreign(call: str, doing: str) -> Generator[None]:
    """The one boundary around what a source's author wrote, but for reading: nothing has been started yet."""
    try:
        yield
    except BridgeError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{call}: {doing}: {type(error).__name__}: {error}", hint="mend the source") from error


def fields_of(source: SourceStage, uri: str) -> Sequence[Field] | None:
    """What it says of its fields. Raises ConfigError where it cannot."""
    with _foreign(_call_of(uri), "asking for its fields"):
        return source.fields()


def parts_of(uri: str, arguments: dict[str, Any]) -> list[SourceFile]:
    """The parts of a source as files of the plan; the file its code is in and its version are their identity."""
    source, call = source_of(uri, arguments), _call_of(uri)
    with _foreign(call, "asking for its version"):
        identity = f"{code_version(call)} {source.version()}".strip()
    with _foreign(call, "asking for its parts"):
        parts = list(source.parts())
    if odd := [part for part in parts if not isinstance(part, str)]:
        raise ConfigError(f"{call}: the part {odd[0]!r} is no text", hint="parts() gives names")
    if len(set(parts)) != len(parts):
        raise ConfigError(f"{call}: two parts have one name")
    return [
        SourceFile(uri=f"{SCHEME}{call}" + (f"#{quote(part, safe='')}" if part else ""), etag=identity)
        for part in parts
    ]


def part_of(uri: str) -> str:
    """The name of a part."""
    return unquote(uri.partition("#")[2])


def _call_of(uri: str) -> str:
    """`module:name`, also of an entry point that is named in its place."""
    name = uri.removeprefix(SCHEME).partition("#")[0]
    for point in entry_points(group=GROUP).select(name=name):
        return point.value
    return name
