"""The programmatic face: run, plan, look, verify. No prints, no exits; errors are `BridgeError`s."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data_bridge.config import Settings, load_settings, run_folder, socket_folders, stages_folder
from data_bridge.engine.running import publish, run
from data_bridge.errors import BridgeError, ConfigError, FatalError
from data_bridge.events import (
    Observer,
    ignore,
)
from data_bridge.model.outline import Box
from data_bridge.model.report import PlanReport, RunReport, StageStatus, StatusReport, VerifyReport
from data_bridge.model.store import ObjectStore
from data_bridge.monitor import stages as monitor_stages
from data_bridge.monitor.detached import Detached, noted
from data_bridge.monitor.folder import is_running, latest
from data_bridge.monitor.session import Monitor
from data_bridge.monitor.snapshot import Snapshot
from data_bridge.pipelines.base import OpenStore
from data_bridge.pipelines.destination import output_uri
from data_bridge.pipelines.factory import PipelineFactory
from data_bridge.pipelines.fresh import made_here
from data_bridge.pipelines.hooks import before_all
from data_bridge.pipelines.looking import plan_report, status_report
from data_bridge.pipelines.notes import REPORT
from data_bridge.pipelines.planning import read_identity
from data_bridge.pipelines.shape import shape
from data_bridge.pipelines.slices import Slice, named, recorded_plan, refuse_fresh, refuse_unfinished
from data_bridge.runtime.control import RunControl
from data_bridge.storage import open_store

if TYPE_CHECKING:
    from data_bridge.model.bench import BenchReport
    from data_bridge.pipelines.asking import Selection

__all__ = [
    "bench",
    "bench_from_file",
    "control",
    "finalize",
    "graph",
    "load_settings",
    "now",
    "plan",
    "report",
    "retry_failed",
    "run_from_file",
    "run_id",
    "run_pipeline",
    "status",
    "verify",
]


def run_from_file(
    path: str | Path,
    *,
    observer: Observer = ignore,
    workers: int | None = None,
    slice: str | None = None,  # noqa: A002 - as on the command line
) -> RunReport:
    """Run the pipeline of a config file; see `run_pipeline`."""
    return run_pipeline(load_settings(Path(path)), observer=observer, workers=workers, slice=slice)


def run_pipeline(
    settings: Settings,
    *,
    observer: Observer = ignore,
    workers: int | None = None,
    prefix: str | None = None,
    fresh: bool = False,
    steal: bool = False,
    slice: str | None = None,  # noqa: A002 - as on the command line
    open_destination: OpenStore | None = None,
) -> RunReport:
    """Bring the source to finished, verified shards at the destination; call it again after any crash to go on.

    `workers` overrides the settings (0 = in this process); `prefix` names the dataset at the destination; `fresh`
    deletes what an earlier run made there; `steal` takes partitions over from a run on another machine that only seems
    alive. `slice`, "2/3", does the second third of the partitions and publishes nothing: `finalize` does when all are done,
    on whatever machines they were. `open_destination` opens another store than the settings' own destination; slots get a
    pickled copy of it.

    Returns when the manifest is published (or the slice is done), or when a signal stopped the run (status `interrupted`).
    Raises ConfigError before any work, DataError for a bad sample under `on_error: fail`, and other `BridgeError`s with
    progress kept.
    """
    part = Slice.parse(slice) if slice is not None else None
    if part is not None:
        refuse_fresh(fresh=fresh)
    with _no_exits(), Monitor(observer, settings, name=lambda run: named(run, slice)) as monitor:
        pipeline = PipelineFactory.create(settings, _open(settings, prefix, open_destination))
        before = partial(before_all, pipeline, monitor)
        prepare = partial(pipeline.prepare_anew, before, steal=steal) if fresh else pipeline.prepare
        return run(pipeline, prepare, monitor, workers=workers, steal=steal, part=part, asked=fresh)


def finalize(
    settings: Settings,
    *,
    observer: Observer = ignore,
    prefix: str | None = None,
    open_destination: OpenStore | None = None,
    called: str = "CONFIG",
) -> RunReport:
    """Publish what the slices of a run have made: indexes for readers, and the manifest last. Called again it changes nothing.

    Neither reads the source nor makes shards. Raises RetryableError that names what is missing while any partition is not
    done (by commands with the config as it is `called` there), ConfigError where no run was begun or another config's was,
    DataError past `max_failures`, and IntegrityError when something recorded is not there.
    """
    started, store = time.monotonic(), _open(settings, prefix, open_destination)
    with _no_exits():
        pipeline = PipelineFactory.create(settings, store, plan=recorded_plan(settings, store))
        logs = pipeline.logs()
        refuse_unfinished(store, pipeline.plan, logs, called)
        return publish(pipeline, logs, started, observer)


def retry_failed(
    settings: Settings,
    *,
    observer: Observer = ignore,
    workers: int | None = None,
    prefix: str | None = None,
    steal: bool = False,
    open_destination: OpenStore | None = None,
) -> RunReport:
    """Try the failed samples of a finished dataset again, and only those: what can be used now is added to it in shards of
    its own, what fails again stays a failure. Call it again after any crash to go on; arguments as in `run_pipeline`.

    The code of stages may have been mended meanwhile. Raises ConflictError for any other change that makes other bytes and
    for another source, ConfigError where there is no finished dataset, and for stages that see more than one sample.
    """
    with _no_exits(), Monitor(observer, settings) as monitor:
        pipeline = PipelineFactory.create(settings, _open(settings, prefix, open_destination))
        return run(pipeline, pipeline.prepare_retry, monitor, workers=workers, steal=steal)


def plan(
    settings: Settings, *, prefix: str | None = None, fresh: bool = False, open_destination: OpenStore | None = None
) -> PlanReport:
    """What a run would do and what is already done, with `fresh` as if nothing stood at the destination; writes nothing.
    Raises ConfigError as `run_pipeline` would."""
    with _no_exits():
        pipeline = PipelineFactory.create(settings, _open(settings, prefix, open_destination))
        return plan_report(settings, pipeline, anew=fresh)


def run_id(destination: str, settings: Settings | None = None) -> str:
    """The id of the run that a destination belongs to. Raises ConfigError when there is no dataset."""
    store = open_store(destination, settings or _no_settings(destination))
    identity = read_identity(store)
    if identity is None:
        raise ConfigError(
            f"no dataset at {store.uri}", hint="name the destination or the config of a run that has begun"
        )
    return identity.run


def now(run: str) -> Snapshot | None:
    """What a run says that works on this machine now, by its id; None for one that does not."""
    snapshot = latest(run_folder(run))
    return snapshot if snapshot is not None and is_running(snapshot) else None


def stage_statuses(report: StatusReport) -> tuple[StageStatus, ...]:
    """How each stage of a run stands whose `status` this is: by the ledger, and by what a run of this machine says or said."""
    told = None
    with suppress(RuntimeError):  # this user has no home
        told = latest(run_folder(report.run))
    running = told is not None and is_running(told)
    paused = False
    if running:
        with suppress(BridgeError):  # it has just ended, or does not listen
            paused = RunControl(report.run, socket_folders()).describe()["engine"]["state"] == "paused"
    reports = {n: str(folder / REPORT) for n, folder in stage_files(report.run).items() if (folder / REPORT).exists()}
    return monitor_stages.stage_statuses(report, told, reports, running=running, paused=paused)


def detached(run: str) -> Detached | None:
    """The last run in the background on this machine, of a run's id: whether it works, where it writes what it says, and how it
    ended; None where none was."""
    with suppress(RuntimeError):  # this user has no home
        return noted(run_folder(run))
    return None


def stage_files(run: str) -> dict[str, Path]:
    """By stage, the folders of this machine in which stages of a run left something to look at."""
    with suppress(FileNotFoundError, RuntimeError):  # RuntimeError: this user has no home
        return {folder.name: folder for folder in sorted(stages_folder(run).iterdir()) if any(folder.iterdir())}
    return {}


def graph(settings: Settings) -> tuple[Box, ...]:
    """Source, stages and writers as they are wired; reads and starts nothing. Raises ConfigError as `plan` would for
    stages that do not go together."""
    return shape(settings.pipeline)


def bench_from_file(path: str | Path, *, seconds: float = 60.0, observer: Observer = ignore) -> "BenchReport":
    """Measure the parts of a config file's run; see `bench`."""
    return bench(load_settings(Path(path)), seconds=seconds, observer=observer)


def bench(
    settings: Settings,
    *,
    seconds: float = 60.0,
    workers: int | None = None,
    prefix: str | None = None,
    use_store: bool = True,
    observer: Observer = ignore,
) -> "BenchReport":
    """Measure how fast this machine reads, packs and uploads this source, and tell what limits a run and what to change.

    Takes about `seconds`, shared among the parts, and less where a rate is soon known. What it writes, at the
    destination (unless `use_store` is False) and where shards are staged, has names of its own and is deleted again; a
    dataset that is there is not touched. Raises ConfigError as `plan` would, and other `BridgeError`s as a run would.
    """
    from data_bridge.measure.bench import measured  # a run needs none of it

    pipeline = PipelineFactory.create(settings, _open(settings, prefix))
    with _no_exits():
        return measured(pipeline, workers=workers, seconds=seconds, use_store=use_store, observer=observer)


def made_there(settings: Settings, *, prefix: str | None = None) -> int:
    """How many objects `fresh` would delete. Raises what `run_pipeline(fresh=True)` would, before anything is deleted."""
    return len(made_here(_open(settings, prefix)))


def paid_there(settings: Settings, *, prefix: str | None = None) -> float:
    """Dollars that were paid for answers which `fresh` would delete, as far as can be told."""
    with suppress(BridgeError):  # nothing is there, or what is there is damaged: `fresh` is for both
        stages = status_report(_open(settings, prefix)).stages
        return sum(stage.paid.cost_usd for stage in stages if stage.paid is not None)
    return 0.0


def status(destination: str, settings: Settings | None = None) -> StatusReport:
    """What the ledger of a destination says. Raises ConfigError when there is no dataset."""
    return status_report(open_store(destination, settings or _no_settings(destination)))


def report(
    destination: str,
    stage: str,
    settings: Settings | None = None,
    *,
    filters: Sequence[str] = (),
    limit: int | None = None,
) -> "Selection":
    """What a stage measured of the samples that are committed, where its report is wanted: rows in the order of the source that
    meet all `filters` (`words > 100`), the first `limit` of them. Also while the run goes on. Raises ConfigError for a stage
    without a report, and for what is no condition."""
    from data_bridge.pipelines.asking import select  # a run needs none of it

    return select(open_store(destination, settings or _no_settings(destination)), stage, filters, limit)


def control(
    destination: str,
    settings: Settings | None = None,
    *,
    slice: str | None = None,  # noqa: A002 - as on the command line
) -> RunControl:
    """Commands to the run, or to one slice of it, that works on a destination, on this machine and for this user. Raises
    ConfigError when there is no dataset; each command does when nobody listens."""
    return RunControl(named(run_id(destination, settings), slice), socket_folders())


def verify(destination: str, settings: Settings | None = None, *, deep: bool = False) -> VerifyReport:
    """Check a finished dataset: every object exists with its size; `deep` also reads every shard whole:
    SHA-256, counts, the format's own structure, keys unique over the dataset."""
    from data_bridge.pipelines.verify import verify_dataset  # nor of this

    return verify_dataset(open_store(destination, settings or _no_settings(destination)), deep=deep)


@contextmanager
def _no_exits() -> Generator[None]:
    """An exit of foreign code (a stage, a source, a script that is imported) must not pass for the end of the command."""
    try:
        yield
    except SystemExit as error:
        raise FatalError(
            f"code that the config names ended the process (exit code {error.code})",
            hint="let it raise another exception that says what is wrong",
        ) from error


def _no_settings(destination: str) -> Settings:
    """Settings for looking at a destination without a config: credentials come from where the vendors keep them."""
    return Settings.model_validate({"pipeline": {"input_uri": destination}})


def _open(settings: Settings, prefix: str | None, opener: OpenStore | None = None) -> ObjectStore:
    return opener(settings) if opener else open_store(output_uri(settings, prefix), settings)
