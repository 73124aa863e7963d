"""Every error a user may see, grouped by what they do next.

BridgeError                  1  root
├── ConfigError              2  edit the config or the command line; nothing was started
│   └── ConflictError        2  the destination holds something else; choose another or `--fresh`
├── RetryableError          75  the same command may succeed later
│   ├── BusyError           75  another live run holds the work
│   └── DiskFullError       75  no space; progress is kept
├── FatalError               1  progress is kept; a rerun resumes
│   ├── SourceError          1  the source cannot be read, or is not what it claims
│   ├── StoreError           1  the destination refused
│   ├── DataError            1  a bad sample under `on_error: fail`
│   └── IntegrityError       1  what is stored is not what was recorded
├── Fenced                   1  another attempt took this partition over; internal
└── Interrupted            130  stopped by a signal; progress is kept
"""

from typing import ClassVar


class BridgeError(Exception):
    """Root of all errors a user may see. `hint` says what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # errors cross from slots to the driver by pickle: keep the hint
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[BridgeError], message: str, hint: str) -> BridgeError:
    return kind(message, hint=hint)


class ConfigError(BridgeError):
    """The config or command line is wrong; nothing was started."""

    exit_code = 2


class ConflictError(ConfigError):
    """The destination or the recorded plan belongs to something else."""


class RetryableError(BridgeError):
    """The same call may succeed later."""

    exit_code = 75


class BusyError(RetryableError):
    """Another live run holds the work."""


class DiskFullError(RetryableError):
    """No space left; the run stopped with its progress kept."""


class FatalError(BridgeError):
    """The run failed; progress is kept and a rerun resumes."""


class SourceError(FatalError):
    """The source cannot be read, or is not what it claims to be."""


class StoreError(FatalError):
    """The destination refused an operation for good."""


class DataError(FatalError):
    """A bad sample under `on_error: fail`, or more of them than `max_failures`."""


class IntegrityError(FatalError):
    """What is stored differs from what was recorded."""


class Fenced(BridgeError):
    """Another attempt owns this partition now: stop, write nothing more."""


class Interrupted(BridgeError):
    """Stopped by a signal; closed shards are committed, the open one is discarded."""

    exit_code = 130
