"""Money of several machines: wherever the one client of them dies, at the end none lives and the bill stands still."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from fake_vast.faults import Fault
from fake_vast.machines import why_not
from support.fleets import MACHINES, client
from support.money import Case, Death, Outcome, play
from support.seaweed import Seaweed

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"), pytest.mark.timeout(400)]

DEATHS: tuple[Death, ...] = ("SIGKILL", "SIGINT", "SIGTERM", "network")
PLAIN = [
    Case("nothing else", death, step)
    for death in DEATHS
    for step in ("renting", "answered", "running", "submitted", "ending")
]
FAULTS = [
    Case("nothing goes wrong"),
    Case("answer of a rental lost", faults=(Fault("create", "drop_after"),)),
    Case("answer of a rental lost", "SIGTERM", "running", faults=(Fault("create", "drop_after"),)),
    Case("destroying refused", "SIGINT", "submitted", faults=(Fault("destroy", "refused", 3),)),
    Case("an image not pulled", knobs=(("boots", ("pull_failed",)),)),
    Case("list fails", faults=(Fault("list", "error_before", 4),)),
]
CASES = PLAIN + FAULTS


@pytest.fixture(scope="module")
def outcomes(seaweed: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All of them, several at a time: most of it is waiting."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["support.fleets"])
    folder, bucket = tmp_path_factory.mktemp("money"), seaweed.new_bucket()

    def played(number: int) -> Outcome:
        raw = {
            "pipeline": {"input_uri": f"s3://{bucket}/in.jsonl", "output_uri": f"s3://{bucket}/{number}"},
            "s3": {k: v for k, v in seaweed.settings.model_dump(exclude_none=True).items() if "key" not in k}
            | {name: getattr(seaweed.settings, name).get_secret_value() for name in ("access_key_id", "secret_access_key")},
        }  # fmt: skip
        return play(CASES[number], folder / str(number), partial(client, raw))

    with ThreadPoolExecutor(6) as pool:
        return {str(case): found for case, found in zip(CASES, pool.map(played, range(len(CASES))), strict=True)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_money_leaks(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[str(case)]

    assert (outcome.leaked, outcome.unmatched, outcome.open) == (0.0, [], 0)
    assert outcome.left == 0, "a machine did not destroy itself"
    if case in PLAIN:
        assert outcome.happened
    if case in FAULTS and case.death == "none":
        assert outcome.rented >= MACHINES
