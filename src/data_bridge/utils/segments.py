"""Segments: objects that repeat a thousand records of a partition's ledger each, so that a resume reads few objects.

They only add. A segment is a function of the records, which never change, so whoever writes it writes the same; nothing
is decided by it, and a ledger without any is whole.
"""

from collections.abc import Mapping, Sequence

import msgspec

from data_bridge.errors import IntegrityError
from data_bridge.model.store import ObjectStore

RECORDS = 1000
"""Records that a segment repeats. Its key says which, so that a reader depends on no number."""

HINT = "delete this one object: it repeats records of the ledger that are still there"


class Segments:
    """The segments of one run: `<dest>/_bridge/<run>/segments/p00012/000000-000999.json`, each a JSON array of records."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self._store = store
        self._prefix = f"_bridge/{run}/segments/"

    def spans(self, name: str = "") -> Mapping[str, list[range]]:
        """Numbers of the records that are repeated, by partition (of one or all), in order from record 0 without gaps."""
        found: dict[str, list[range]] = {}
        # longer names are of larger numbers
        for key in sorted(self._store.list_keys(self._prefix + (f"{name}/" if name else "")), key=len):
            partition, _, span = key.removeprefix(self._prefix).partition("/")
            first, _, last = span.removesuffix(".json").partition("-")
            known = found.setdefault(partition, [])
            if int(first) == (known[-1].stop if known else 0):
                known.append(range(int(first), int(last) + 1))
        return found

    def read(self, name: str, span: range) -> list[bytes]:
        """The repeated records as they are stored. Raises IntegrityError when the segment is gone or damaged."""
        key = self.key(name, span)
        try:
            records = msgspec.json.decode(self._store.get(key) or b"", type=list[msgspec.Raw])
        except ValueError:
            records = []
        if len(records) != len(span):
            raise IntegrityError(
                f"{key} at {self._store.uri} is damaged",
                hint=HINT,
            )
        return [bytes(record) for record in records]

    def write(self, name: str, first: int, records: Sequence[bytes]) -> None:
        """Repeat consecutive records from number `first` on."""
        key = self.key(name, range(first, first + len(records)))
        self._store.put_if_absent(key, b"[" + b",".join(records) + b"]")

    def key(self, name: str, span: range) -> str:
        """Where a segment is."""
        return f"{self._prefix}{name}/{span.start:06d}-{span.stop - 1:06d}.json"
