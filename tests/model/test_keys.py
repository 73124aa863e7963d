import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_bridge.model.keys import IndexKeys
from data_bridge.pipelines.tarfmt import column, pack

numbers = st.lists(st.integers(0, 2**62), min_size=1, max_size=20, unique=True).map(sorted)
small_numbers = st.lists(st.integers(0, 1200), min_size=1, max_size=20, unique=True).map(sorted)


@given(st.sampled_from(["", "00012-", "a_b-"]), numbers | small_numbers, st.integers(1, 12))
def test_keys_are_the_prefix_and_the_padded_number(prefix: str, wanted: list[int], digits: int) -> None:
    keys = IndexKeys(prefix, np.array(wanted, dtype=np.int64), digits)

    texts = [f"{prefix}{number:0{digits}d}" for number in wanted]
    assert list(keys) == texts
    assert list(keys[1:3]) == texts[1:3]
    assert keys[-1] == texts[-1]
    assert keys.width == max(map(len, texts))


@given(st.sampled_from(["", "00012-"]), small_numbers, st.integers(1, 5), st.sampled_from(["json", "seg.png"]))
def test_archives_are_those_of_the_same_keys_as_text(
    prefix: str, wanted: list[int], digits: int, extension: str
) -> None:
    keys = IndexKeys(prefix, np.array(wanted, dtype=np.int64), digits)
    members = [column(extension, [bytes([n % 251]) * n for n in wanted])]

    assert pack(keys, members)[0] == pack(list(keys), members)[0]


def test_keys_that_outgrow_their_digits_have_no_one_width() -> None:
    assert IndexKeys("", np.array([9, 10]), 1).characters() is None
    assert IndexKeys("p", np.array([8, 9]), 1).characters() is not None
    assert len(IndexKeys("p", np.array([], dtype=np.int64), 3)) == 0


def test_there_is_no_key_beyond_the_last() -> None:
    with pytest.raises(IndexError):
        IndexKeys("", np.array([1]), 1)[1]
