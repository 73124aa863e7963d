"""What rows weigh, and that they stay what they are on their way."""

import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.model.batch import DictRows, LineRows, Media
from data_bridge.rows.picking import size_of, take


def test_files_weigh_what_they_have() -> None:
    assert size_of(DictRows([{"a": b"x" * 1000}, {"a": Media(b"x" * 5000, "a.jpg")}])) == 6000
    assert size_of(DictRows([{"a": 1, "b": None}])) > 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=8))
def test_lines_in_any_order_are_the_same_in_another_process(order: list[int]) -> None:
    texts = [b'{"n":%d,"x":"%b"}' % (n, b"y" * n) for n in range(6)]
    starts = np.cumsum([0, *(len(text) + 1 for text in texts[:-1])])
    rows = LineRows(b"\n".join(texts), starts, starts + [len(text) for text in texts])

    there = pickle.loads(pickle.dumps(take(rows, np.array(order, dtype=np.int64))))

    assert [there.data[a:b] for a, b in zip(there.starts, there.ends, strict=True)] == [texts[n] for n in order]
