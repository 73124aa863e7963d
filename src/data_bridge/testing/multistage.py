"""The promises of every stage that tells its inputs apart, as tests."""

import copy
from collections.abc import Sequence
from typing import ClassVar

from data_bridge.runtime.fitting import fitted
from data_bridge.runtime.multistage import MultiStage, Sample
from data_bridge.runtime.stage import by_output
from data_bridge.testing.contract import Promises
from data_bridge.testing.running import StageRun, multibatch, plain, run_multistage


class MultiStageContract(Promises):
    """The promises of every `MultiStage`, as tests of pytest: subclass, name the kind and give samples."""

    samples: ClassVar[Sequence[Sample]]
    """Some it can use, and some it cannot, each as the rows that it became at every input."""

    def _run(self, batch: int | None = None) -> StageRun:
        return run_multistage(self.config(), self.samples, batch=batch)

    def test_its_inputs_and_outputs_have_names_of_their_own(self) -> None:
        stage = self.stage()
        assert isinstance(stage, MultiStage)
        assert stage.takes, "it has no inputs"
        assert len(set(stage.gives)) == len(stage.gives) > 0, "two outputs have one name, or it has none"
        assert {name for sample in self.samples for name in sample} <= set(stage.takes), "samples at inputs it has not"

    def test_the_same_samples_make_the_same(self) -> None:
        assert self._run() == self._run()

    def test_it_makes_the_same_however_the_samples_are_cut(self) -> None:
        expected = self._run()
        for batch in (1, 2, 3):
            assert self._run(batch) == expected, f"{batch} at a time"

    def test_samples_it_was_given_stay_as_they_are(self) -> None:
        """What another stage reads too must not change under it."""
        stage, given = self.stage(), copy.deepcopy(list(self.samples))
        stage.setup()
        try:
            fitted(stage, multibatch(stage, given))
        finally:
            stage.close()

        assert plain(given) == plain(list(self.samples))

    def test_samples_come_in_order_and_nothing_is_left_of_one_that_failed(self) -> None:
        run = self._run()
        failed = [failure.offset for failure in run.failures]
        assert len(failed) == len(set(failed)), "a sample failed twice"
        assert all(failure.reason for failure in run.failures)
        for name, origins in run.origins.items():
            assert origins == sorted(origins), f"output {name}: they are not in order"
            assert not set(origins) & set(failed), f"output {name}: a sample failed and went on"

    def test_commands_are_answered_and_done_alike_by_every_instance(self) -> None:
        """Those that come later are told what was accepted before, and go on with what the others do."""
        first, second = (run_multistage(stage, self.samples) for stage in self.told())

        assert first == second

    def test_an_empty_batch_is_no_error(self) -> None:
        stage = self.stage()
        stage.setup()
        try:
            for result in by_output(stage, fitted(stage, multibatch(stage, ()))).values():
                assert len(result.rows) == len(result.positions) == len(result.failures) == 0
        finally:
            stage.close()
