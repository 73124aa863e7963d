"""The promises every stage keeps, as tests."""

import copy
import pickle
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from data_bridge.errors import ConfigError
from data_bridge.io.sources.observed import observed_fields
from data_bridge.model.batch import DictRows, Row
from data_bridge.pipelines.remembering import load, saved
from data_bridge.rows.decoding import decode
from data_bridge.runtime.commands import said
from data_bridge.runtime.control import Request
from data_bridge.runtime.fitting import fitted
from data_bridge.runtime.stage import Result, Stage, StageBatch, StatefulStage, Surveying, by_output
from data_bridge.testing.running import assert_same_however_cut, forms, plain, run_stage, stage_of


class Promises:
    """Those that need no samples. Subclass one that has them."""

    kind: ClassVar[str]
    """As a config names it: also `package.module:Class`."""
    options: ClassVar[Mapping[str, Any]] = {}
    requests: ClassVar[Sequence[Request]] = ()
    """Commands of its own that it accepts, in an order in which it may be told them."""

    def stage(self) -> Stage[Any]:
        """A new one, as the config would make it."""
        return stage_of(self.config())

    def config(self) -> dict[str, Any]:
        return {self.kind: dict(self.options), "name": "stage"}

    def test_making_one_starts_no_thread(self) -> None:
        before = set(threading.enumerate())

        self.stage()

        assert set(threading.enumerate()) == before

    def test_its_options_can_be_sent_to_another_process(self) -> None:
        options = self.stage().options

        assert pickle.loads(pickle.dumps(options)) == options  # noqa: S301 - made a moment ago

    def test_every_option_says_what_it_is_and_when_it_may_change(self) -> None:
        for name, option in type(self.stage()).Options.model_fields.items():
            assert option.description, f"the option {name} has no description"
            extra = option.json_schema_extra
            assert isinstance(extra, dict), f"make {name} with `option()`"
            assert extra.get("live") in ("never", "paused", "any"), f"make {name} with `option()`"

    def told(self) -> tuple[Stage[Any], Stage[Any]]:
        """Two that were told the requests, each of which they answered alike."""
        stages = self.stage(), self.stage()
        own = {*stages[0].commands, *stages[0].questions}
        assert said(stages[0], Request("a command that nobody has")) is None, "it understands what it does not name"
        for request in self.requests:
            assert request.command in own, f"{request.command} stands neither in `commands` nor in `questions`"
            first, second = (said(stage, request) for stage in stages)
            assert first is not None, f"{request.command} is not understood"
            assert first == second, f"{request.command} is not answered alike"
        return stages


class StageContract(Promises):
    """The promises of every stage, as tests of pytest: subclass, name the kind and give samples.

    A block of the stage is one with `block`, so that its result is not the same however the samples are cut: such a
    stage is asked for whole blocks only.
    """

    outputs: ClassVar[Sequence[Mapping[str, Any]]] = ()
    samples: ClassVar[Sequence[Row]]
    """Some it can use, and some it cannot."""
    refused: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Options it must refuse when the plan is made."""

    def config(self) -> dict[str, Any]:
        return {**super().config(), **({"outputs": list(self.outputs)} if self.outputs else {})}

    def _batch(self) -> StageBatch:
        return StageBatch(DictRows(copy.deepcopy(list(self.samples))), np.arange(len(self.samples), dtype=np.int64))

    def _results(self, batch: StageBatch) -> dict[str, Result]:
        stage = self.stage()
        return dict(by_output(stage, self._made(stage, batch)))

    def _made(self, stage: Stage[Any], batch: StageBatch) -> Result | Mapping[str, Result]:
        stage.setup()
        try:
            return fitted(stage, batch)
        finally:
            stage.close()

    def test_commands_are_answered_and_done_alike_by_every_instance(self) -> None:
        """Those that come later are told what was accepted before, and go on with what the others do."""
        stages, batch = self.told(), self._batch()
        made = [by_output(stage, self._made(stage, batch)) for stage in stages]
        for name, result in made[0].items():
            assert [plain(row) for row in decode(result.rows)[0]] == [
                plain(row) for row in decode(made[1][name].rows)[0]
            ]

    def test_the_same_samples_make_the_same(self) -> None:
        assert run_stage(self.config(), self.samples) == run_stage(self.config(), self.samples)

    def test_it_makes_the_same_however_the_samples_are_cut(self) -> None:
        if not self.stage().block:
            assert_same_however_cut(self.config(), self.samples)

    def test_samples_it_was_given_stay_as_they_are(self) -> None:
        """What another stage reads too must not change under it."""
        batch = self._batch()

        self._results(batch)

        assert isinstance(batch.rows, DictRows)
        assert [plain(row) for row in batch.rows.rows] == [plain(row) for row in self.samples]

    def test_it_makes_the_same_in_memory_that_it_may_overwrite(self) -> None:
        """Where the stage before it made the numbers for it alone."""
        every = frozenset(name for row in self.samples for name in row)
        for form, rows in forms(self.samples):
            found = []
            for mine in (frozenset[str](), every):
                stage = self.stage()
                if isinstance(stage, Surveying):
                    return
                again = pickle.loads(pickle.dumps(rows))  # noqa: S301 - memory of its own, made a moment ago
                made = self._made(stage, StageBatch(again, np.arange(len(rows), dtype=np.int64), mine=mine))
                found.append({name: decode(one.rows)[0] for name, one in by_output(stage, made).items()})
            assert plain(found[0]) == plain(found[1]), form

    def test_every_result_says_where_its_samples_came_from(self) -> None:
        for name, result in self._results(self._batch()).items():
            positions = result.positions
            assert positions.dtype == np.int64, f"output {name}"
            assert len(positions) == len(result.rows), f"output {name}"
            assert not len(positions) or 0 <= positions.min() <= positions.max() < len(self.samples), f"output {name}"
            if not self.stage().block:
                assert (np.diff(positions) >= 0).all(), f"output {name}: they are not in order"

    def test_a_failure_is_a_value_and_no_sample_is_left_of_it(self) -> None:
        results = self._results(self._batch())
        failed = [failure.offset for result in results.values() for failure in result.failures]

        assert len(failed) == len(set(failed)), "a sample failed twice"
        assert all(0 <= offset < len(self.samples) for offset in failed)
        for result in results.values():
            assert not set(result.positions.tolist()) & set(failed), "a sample failed and went on"
            assert all(failure.reason for failure in result.failures)

    def test_what_it_says_of_itself_is_so(self) -> None:
        stage, results = self.stage(), self._results(self._batch())
        for name, result in results.items():
            gone = set(range(len(self.samples))) - set(result.positions.tolist())
            assert stage.drops or gone <= {f.offset for r in results.values() for f in r.failures}, f"output {name}"
            assert stage.multiplies or len(set(result.positions.tolist())) == len(result.positions), f"output {name}"

    def test_one_that_loads_what_another_saved_goes_on_as_that_one_would(self) -> None:
        """Wherever a run is killed."""
        first = self.stage()
        if not isinstance(first, StatefulStage):
            return
        batch = self._batch()
        whole = self._results(batch)
        for cut in range(len(batch) + 1):
            made: dict[str, list[Row]] = {name: [] for name in whole}
            stage, state = self.stage(), None
            for lo, hi in ((0, cut), (cut, len(batch))):
                assert isinstance(stage, StatefulStage)
                if state is not None:
                    load(stage, state)
                stage.setup()
                part = StageBatch(batch.rows.slice(lo, hi), batch.indices[lo:hi])
                for name, result in by_output(stage, fitted(stage, part)).items():
                    made[name] += [plain(row) for row in decode(result.rows)[0]]
                state = saved(self.kind, stage)
                stage.close()
                stage = self.stage()
            expected = {name: [plain(row) for row in decode(result.rows)[0]] for name, result in whole.items()}
            assert made == expected, f"saved behind {cut} samples"

    def test_an_empty_batch_is_no_error(self) -> None:
        for result in self._results(StageBatch(DictRows([]), np.array([], dtype=np.int64))).values():
            assert len(result.rows) == len(result.positions) == len(result.failures) == 0

    def test_the_fields_it_promises_are_those_it_makes(self) -> None:
        """Where it can tell them; a stage that samples may pass by does not change them."""
        stage = self.stage()
        given = observed_fields([plain(row) for row in self.samples])
        promised = stage.fields(given)
        if promised is None:
            return
        run = run_stage(self.config(), self.samples)
        names = {field.name for field in promised}
        for made in run.outputs.values():
            assert {name for row in made for name in row} <= names
        if stage.bypassable:
            assert {f.name: f.type for f in promised} == {f.name: f.type for f in given}

    def test_options_it_cannot_work_with_are_refused_when_the_plan_is_made(self) -> None:
        given = observed_fields([plain(row) for row in self.samples])
        for options in self.refused:
            try:
                stage_of({**self.config(), self.kind: dict(options)}).fields(given)
            except ConfigError:
                continue
            raise AssertionError(f"{options} was accepted")
