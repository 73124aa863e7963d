"""Offers as the vendor lists them, and its search over them."""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

MONTH_H = 720.0
MOST_FOUND = 64
_ids = itertools.count(1001)

Row = dict[str, Any]


def offer(**fields: Any) -> Row:
    """One offer: a small, dear machine of a data centre unless said otherwise."""
    number = next(_ids)
    row: Row = {
        "id": number,
        "ask_contract_id": number,
        "bundle_id": 50_000 + number,
        "machine_id": 7000 + number,
        "host_id": 300 + number,
        "hosting_type": 1,
        "gpu_name": "RTX 4090",
        "num_gpus": 1,
        "gpu_ram": 24_564,
        "cpu_cores_effective": 16.0,
        "cpu_ram": 64_000,
        "cpu_arch": "amd64",
        "disk_space": 500.0,
        "disk_bw": 2500.0,
        "dph_base": 0.40,
        "min_bid": 0.15,
        "is_bid": False,
        "storage_cost": 0.15,
        "inet_up": 800.0,
        "inet_down": 900.0,
        "inet_up_cost": 0.002,
        "inet_down_cost": 0.002,
        "reliability": 0.995,
        "reliability2": 0.995,
        "verification": "verified",
        "rentable": True,
        "rented": False,
        "external": False,
        "geolocation": "Texas, US",
        "direct_port_count": 50,
        "static_ip": True,
        "public_ipaddr": "127.0.0.1\n",
        "cuda_max_good": 12.8,
        "compute_cap": 890,
        "start_date": time.time() - 3600,
        "end_date": time.time() + 30 * 86_400,
        "duration": 30 * 86_400.0,
        "dlperf": 90.0,
        "score": 100.0,
    }
    return row | fields


def priced(row: Mapping[str, Any], disk_gb: float) -> Row:
    """The offer with what so much disk makes of its price."""
    disk = row["storage_cost"] * disk_gb / MONTH_H
    total = row["dph_base"] + disk
    return {
        **row,
        "dph_total": total,
        "storage_total_cost": disk,
        "dlperf_per_dphtotal": row["dlperf"] / total,
        "search": {"gpuCostPerHour": row["dph_base"], "diskHour": disk, "totalHour": total},
    }


_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda have, want: have == want,
    "neq": lambda have, want: have != want,
    "gt": lambda have, want: have > want,
    "gte": lambda have, want: have >= want,
    "lt": lambda have, want: have < want,
    "lte": lambda have, want: have <= want,
    "in": lambda have, want: have in want or (isinstance(have, str) and have.rpartition(", ")[2] in want),
    "notin": lambda have, want: have not in want,
}


def found(rows: Iterable[Row], query: Mapping[str, Any]) -> list[Row]:
    """What a search answers: at most 64, in the order asked for, and never by `id`."""
    disk = float(query.get("allocated_storage") or 5.0)
    matching = [row for row in (priced(r, disk) for r in rows) if _matches(row, query)]
    for key, way in reversed(query.get("order") or []):
        matching.sort(key=partial(_at, key), reverse=way == "desc")
    limit = min(int(query.get("limit") or MOST_FOUND), MOST_FOUND)
    bid = query.get("type") == "bid"
    return [
        {**row, "is_bid": bid, "dph_total": row["min_bid"] if bid else row["dph_total"]} for row in matching[:limit]
    ]


def _at(key: str, row: Row) -> Any:
    return row.get(key) or 0


def _matches(row: Row, query: Mapping[str, Any]) -> bool:
    for key, tests in query.items():
        if not isinstance(tests, Mapping):
            continue
        if key == "id":
            return False
        have = row["verification"] == "verified" if key == "verified" else row.get(key)
        if have is None or not all(_TESTS[op](have, _like(have, want)) for op, want in tests.items()):
            return False
    return True


def _like(have: Any, want: Any) -> Any:
    """The vendor's own client sends numbers as text."""
    if isinstance(want, str) and isinstance(have, (int, float)) and not isinstance(have, bool):
        return float(want)
    return want
