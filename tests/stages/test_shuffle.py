import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.model.batch import DictRows
from data_bridge.model.metrics import Count, Gauge
from data_bridge.runtime.stage import StageBatch
from data_bridge.testing import StageContract, run_stage, stage_of

SAMPLES = [{"n": n} for n in range(40)]


class TestShuffle(StageContract):
    kind = "shuffle"
    options = {"window": 40}
    samples = SAMPLES
    refused = [{"window": 1}, {"window": 0}, {"seed": -1}, {"seed": 2**63}, {"buffer": 5}]


def order(seed: int, first_index: int = 0, window: int = 40) -> list[int]:
    return run_stage(
        {"shuffle": {"window": window, "seed": seed}}, SAMPLES, first_index=first_index, batch=window
    ).origins["out"]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**63 - 1), st.sampled_from([2, 7, 10, 40]))
def test_every_sample_is_there_once_and_stays_in_its_block(seed: int, window: int) -> None:
    found = order(seed, window=window)

    assert sorted(found) == list(range(40))
    assert all(at // window == place // window for place, at in enumerate(found))


def test_another_seed_and_other_source_indices_give_another_order() -> None:
    found = [order(0), order(1), order(2), order(0, first_index=1000)]

    assert len({tuple(one) for one in found}) == 4
    assert list(range(40)) not in found


def test_the_order_is_the_same_in_every_form_of_rows() -> None:
    from data_bridge.testing import forms

    found = [run_stage({"shuffle": {"window": 40}}, rows).samples for _, rows in forms(SAMPLES)]

    assert len(found) == 3
    assert found[0] == found[1] == found[2] != SAMPLES


def test_it_tells_how_full_its_window_was_and_how_many_samples_it_has_had() -> None:
    stage = stage_of({"shuffle": {"window": 40}})

    for first, count in ((0, 40), (40, 40), (80, 7)):
        stage.process(StageBatch(DictRows(SAMPLES[:count]), np.arange(first, first + count, dtype=np.int64)))

    assert stage.flush_metrics() == (Gauge("window_current", 7, 40), Count("samples", 87))
    assert stage.flush_metrics() == (Gauge("window_current", 7, 40), Count("samples", 0))
