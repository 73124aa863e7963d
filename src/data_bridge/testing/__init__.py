"""For authors of stages: run one on a few samples, and the promises every stage keeps, as tests of pytest.

def test_it_keeps_long_texts() -> None:
    stage = {"filter": {"where": {"text": {"min_length": 2}}}}
    assert run_stage(stage, [{"text": "a"}, {"text": "ab"}]).samples == [{"text": "ab"}]

class TestMine(StageContract):
    kind = "my_package.stages:Mine"
    samples = [{"text": "a"}, {"text": ""}]

def test_it_resumes(tmp_path: Path) -> None:
    assert_resumes({"my_package.stages:Mine": {}}, [{"text": "a"}] * 100, tmp_path)
"""

from data_bridge.testing.contract import StageContract
from data_bridge.testing.multistage import MultiStageContract
from data_bridge.testing.resuming import assert_resumes
from data_bridge.testing.running import StageRun, assert_same_however_cut, forms, run_multistage, run_stage, stage_of

__all__ = [
    "MultiStageContract",
    "StageContract",
    "StageRun",
    "assert_resumes",
    "assert_same_however_cut",
    "forms",
    "run_multistage",
    "run_stage",
    "stage_of",
]
