"""Money: whatever goes wrong and wherever the client dies, at the end no machine lives and the bill stands still."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_vast.faults import Fault
from fake_vast.machines import why_not
from support.money import STEPS, Case, Death, Outcome, play

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"), pytest.mark.timeout(400)]

DEATHS: tuple[Death, ...] = ("SIGKILL", "SIGINT", "SIGTERM", "network")
PLAIN = [Case("nothing else", death, step) for death in DEATHS for step in STEPS]
FAULTS = [
    Case("answer of the rental lost", faults=(Fault("create", "drop_after"),)),
    Case("rental not sent on", faults=(Fault("create", "drop_before"),)),
    Case("rental answered 502", faults=(Fault("create", "error_after"),)),
    Case("rental answered without number", faults=(Fault("create", "no_id"),)),
    Case("rental answered with error and number", faults=(Fault("create", "error_with_contract"),)),
    Case("answer and label lost", faults=(Fault("create", "drop_after"),), knobs=(("label_lost", True),)),
    Case("answer lost, listed late", faults=(Fault("create", "drop_after"),), knobs=(("listed_after_s", 0.2),)),
    Case("destroying refused", faults=(Fault("destroy", "refused", 3),)),
    Case("destroying answered 404 of a session", faults=(Fault("destroy", "auth_as_404", 1),)),
    Case("destroying lost", faults=(Fault("destroy", "drop_before", 5),)),
    Case("destroying too often", faults=(Fault("destroy", "too_often_json", 5),)),
    Case("still listed", knobs=(("still_listed_s", 0.3),)),
    Case("list fails", faults=(Fault("list", "error_before", 4),)),
    Case("key not attached", faults=(Fault("attach", "error_before", 99),)),
    Case("machine's own destroying lost", faults=(Fault("destroy by itself", "drop_before", 1),)),
    Case("no key in the container", knobs=(("container_key", False),)),
    Case("loads for ever", boot="loads_for_ever"),
    Case("image not pulled", boot="pull_failed"),
    Case("container fails", boot="container_failed"),
    Case("exits", boot="exits"),
    Case("goes offline", boot="goes_offline"),
    Case("no ports", boot="no_ports"),
    Case("no sshd", boot="no_sshd"),
    Case("rental too early", faults=(Fault("create", "too_often_text", 2),)),
    Case("not known at first", knobs=(("unknown_for_s", 0.2), ("listed_after_s", 0.2))),
    Case("dearer than offered", knobs=(("dearer", 1.5),)),
]


def _with(fault: Case, death: Death, step: str) -> Case:
    return Case(fault.name, death, step, fault.faults, fault.boot, fault.knobs)


SHOTS: tuple[tuple[Death, str], ...] = (
    ("none", ""),
    ("SIGKILL", "answered"),
    ("SIGTERM", "ending"),
    ("network", "ending"),
)
CASES = PLAIN + [_with(fault, death, step) for fault in FAULTS for death, step in SHOTS]


def played(cases: Sequence[Case], folder: Path) -> dict[str, Outcome]:
    """Several at a time: most of it is waiting."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["support.money"])
    with ThreadPoolExecutor(10) as pool:
        outcomes = pool.map(lambda case: play(case, folder / str(case).replace("/", "-")), cases)
        return {str(case): outcome for case, outcome in zip(cases, outcomes, strict=True)}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return played(CASES, tmp_path_factory.mktemp("money"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_money_leaks(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[str(case)]

    assert (outcome.leaked, outcome.unmatched, outcome.open) == (0.0, [], 0)
    if case.watched:
        assert outcome.left == 0, "the machine did not destroy itself"
    if case in PLAIN:
        assert outcome.happened
        assert outcome.rented == (0 if died_before_the_call(case) else 1)


def died_before_the_call(case: Case) -> bool:
    """Whether the client died before the call."""
    return case.step in ("intending", "renting")


def test_there_are_enough_cases_and_they_differ(outcomes: dict[str, Outcome]) -> None:
    assert len(outcomes) == len(CASES) >= 60
    assert sum(outcome.rented for outcome in outcomes.values()) >= 60
    assert sum(outcome.leaked for outcome in outcomes.values()) == 0


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_no_money_leaks_in_the_whole_product_of_faults_and_deaths_and_steps(fault: Case, tmp_path: Path) -> None:
    cases = [_with(fault, death, step) for death in DEATHS for step in STEPS]

    found = played(cases, tmp_path)

    left = {str(case) for case in cases if case.watched and found[str(case)].left}
    wrong = {name: o for name, o in found.items() if (o.leaked, o.unmatched, o.open) != (0.0, [], 0) or name in left}
    assert wrong == {}
    assert len(found) == len(DEATHS) * len(STEPS) == 36
