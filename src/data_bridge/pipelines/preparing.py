"""The first step of a run: its plan is fixed at the destination, or found there and compared."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from data_bridge.config import Settings
from data_bridge.errors import BusyError, ConfigError, IntegrityError, StoreError
from data_bridge.io.sources.stream import SampleStream
from data_bridge.model.plan import Generation, Plan
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines import planning
from data_bridge.pipelines.finalize import published
from data_bridge.pipelines.fresh import start_over
from data_bridge.pipelines.retrying import plan_retry
from data_bridge.pipelines.staging import PROBES
from data_bridge.pipelines.told import owed
from data_bridge.utils import claims
from data_bridge.utils.progress import dump


class Prepared:
    """A source, a destination, and the plan that stands there once it is prepared."""

    def __init__(self, settings: Settings, store: ObjectStore, stream: SampleStream, plan: Plan | None) -> None:
        self.settings = settings
        self.store = store
        self.stream = stream
        self._plan = plan
        self._probed = False
        self.sample_bytes: planning.SampleBytes | None = None
        """Estimated when the source is planned for the first time."""

    @property
    def plan(self) -> Plan:
        assert self._plan is not None, "prepare() comes first"
        return self._plan

    def preview(self, *, anew: bool = False) -> tuple[Plan, bool]:
        """The plan as it would be, and whether it already stands at the destination; writes nothing. With `anew`, as if
        nothing stood there. Raises ConflictError for what is not ours to go on with, or to delete."""
        with self._usable():
            begun = planning.is_dataset(self.store)
        identity = self._identity() if begun and not anew else None
        recorded = planning.read_plan(self.store, identity.run) if identity else None
        if identity is None or recorded is None:
            first, self.sample_bytes = planning.first_generation(self.settings, self.stream)
            return Plan(run=identity.run if identity else "", generations=(first,)), False
        planning.check_unchanged(self.settings, recorded, mended=partial(self._owes_an_end, recorded))
        grown = planning.grown_generation(self.settings, self.stream, recorded)
        if grown is not None:
            planning.check_unchanged(self.settings, recorded)
        return (_with(recorded, grown), False) if grown else (recorded, True)

    def _owes_an_end(self, plan: Plan) -> bool:
        """Whether nothing is left to do but to tell stages that the dataset is complete: that makes no bytes."""
        return published(self.store, plan) and any(owed(self.settings, self.store, plan))

    def _identity(self) -> planning.Identity | None:
        with self._usable():
            return planning.read_identity(self.store)

    @contextmanager
    def _usable(self) -> Generator[None]:
        """A store that cannot be read is a mistake in the config before anything was done."""
        try:
            yield
        except StoreError as error:
            raise ConfigError(f"cannot use {self.store.uri}: {error.message}", hint=error.hint) from error

    def prepare(self) -> Plan:
        """Fix the plan at the destination, or continue the one that stands there.

        Raises ConfigError or ConflictError before anything is written when config, source or destination do not fit.
        """
        plan, recorded = self.preview()
        if not recorded:
            self.probe()
            plan = self._record(plan)
        self._plan = plan
        return plan

    def prepare_retry(self) -> Plan:
        """Plan another try of all samples that failed, or go on with one that was begun; see `plan_retry`."""
        self._plan = plan_retry(self.settings, self.store, self.stream, self._identity(), self.probe)
        return self._plan

    def prepare_anew(self, before: Callable[[], None], *, steal: bool = False) -> Plan:
        """Plan the source, ask `before`, and only then take away what an earlier run made at the destination."""
        first, self.sample_bytes = planning.first_generation(self.settings, self.stream)
        self._plan = Plan(run=claims.new_token(), generations=(first,))
        before()
        self.probe()
        start_over(self.store, steal=steal)
        self._plan = self._record(self._plan)
        return self._plan

    def probe(self) -> None:
        """Make sure once that the store keeps what it is given, and learn what it can do."""
        if not self._probed:
            self.store.probe(PROBES)
            self._probed = True

    def refuse_another_run(self, run: str) -> None:
        """Raises BusyError when the destination was started over meanwhile, and holds that run no more."""
        there = planning.read_identity(self.store)
        if there is None or there.run != run:
            raise BusyError(
                f"{self.store.uri} was started over by another run, or removed",
                hint="let that run finish, then run again",
            )

    def _record(self, plan: Plan) -> Plan:
        newest = plan.generations[-1]
        if newest.number:  # counted on from the ones before: it belongs to that run alone
            self.refuse_another_run(plan.run)
            run = plan.run
        else:
            run = self._begun(plan.run or claims.new_token())
        if planning.append_generation(self.store, run, newest):
            return Plan(run=run, generations=plan.generations)
        return self.prepare()  # another run was faster: it is gone on with

    def _begun(self, run: str) -> str:
        """Begin the dataset as that run, or join the one that was begun meanwhile."""
        if self.store.put_if_absent(planning.IDENTITY_KEY, dump(planning.Identity(run=run))):
            return run
        there = planning.read_identity(self.store)
        if there is None:
            raise IntegrityError(f"{planning.IDENTITY_KEY} at {self.store.uri} appears and vanishes")
        return there.run


def _with(plan: Plan, generation: Generation) -> Plan:
    return Plan(run=plan.run, generations=(*plan.generations, generation))
