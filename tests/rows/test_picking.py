"""What rows weigh."""

from data_bridge.model.batch import DictRows, Media
from data_bridge.rows.picking import size_of


def test_files_weigh_what_they_have() -> None:
    assert size_of(DictRows([{"a": b"x" * 1000}, {"a": Media(b"x" * 5000, "a.jpg")}])) == 6000
    assert size_of(DictRows([{"a": 1, "b": None}])) > 0
