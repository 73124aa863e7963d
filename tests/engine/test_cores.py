from pathlib import Path

import pytest

from data_bridge.engine.cores import cgroup_quota, peak_bytes, usable_cores


def _machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 0.5),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "200000 100000"}, 2.0),
        ("0::/host/path/not/here\n", {"cpu.max": "300000 100000"}, 3.0),
        ("0::/a\n", {"unified/a/cpu.max": "100000 100000"}, 1.0),
        (
            "4:cpu,cpuacct:/docker/x\n0::/\n",
            {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("3:cpuset:/x\n", {"cpuset/x/cpu.max": "100000 100000"}, None),
        ("", {}, None),
    ],
)
def test_the_smallest_quota_on_the_way_up_counts(
    tmp_path: Path, cgroup: str, files: dict[str, str], quota: float | None
) -> None:
    assert cgroup_quota(_machine(tmp_path, cgroup, files)) == quota


def test_a_fraction_of_a_core_is_one(tmp_path: Path) -> None:
    assert usable_cores(_machine(tmp_path, "0::/", {"cpu.max": "20000 100000"})) == 1


def test_a_quota_never_adds_cores(tmp_path: Path) -> None:
    unlimited = usable_cores(_machine(tmp_path / "a", "0::/", {}))

    assert unlimited >= 1
    assert usable_cores(_machine(tmp_path / "b", "0::/", {"cpu.max": "99900000 100000"})) == unlimited


def test_a_machine_without_cgroups_is_fine(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) >= 1


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_bytes()
    held = bytearray(before + 50_000_000)
    held[::4096] = b"x" * len(held[::4096])

    assert peak_bytes() >= before + 40_000_000
