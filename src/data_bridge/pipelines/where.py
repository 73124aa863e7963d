"""Where in the source a sample stands, in words."""

from data_bridge.model.plan import Partition


class Where:
    """A partition-relative sample index as a place a person can look up."""

    def __init__(self, partition: Partition, uris: list[str], *, counted: bool) -> None:
        self._pieces = [(uri, p.start, p.end) for uri, p in zip(uris, partition.pieces, strict=True)]
        self._partition = partition
        self._counted = counted

    def __call__(self, at: int) -> str:
        if self._counted:
            left = at
            for uri, start, end in self._pieces:
                if end is None or left < end - start:
                    return f"{uri} row {start + left}"
                left -= end - start
        names = self._pieces[0][0] if len(self._pieces) == 1 else f"{len(self._pieces)} files"
        return f"{names} sample {at} of partition {self._partition.index}"
