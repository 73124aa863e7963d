"""One source, whatever its scheme and format: list it, cut it into partitions, read them."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager

import msgspec

from data_bridge.config import Settings
from data_bridge.errors import ConfigError, SourceError
from data_bridge.io.locations import braces, shown
from data_bridge.io.sources import registry
from data_bridge.io.sources.base import CheckedLater, Format
from data_bridge.io.sources.partitioning import cut_partitions
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Batch, Token
from data_bridge.model.plan import Partition
from data_bridge.model.source import FilePiece, Probe, SourceFile
from data_bridge.utils.budget import ByteBudget

HUB = "huggingface"


class Listing(msgspec.Struct, frozen=True):
    """What the source holds now."""

    format: str
    files: tuple[SourceFile, ...]


@contextmanager
def _nothing_started() -> Generator[None]:
    """What planning finds wrong with a source is found before any work: mend the source or the config, then run."""
    try:
        yield
    except SourceError as error:
        raise ConfigError(error.message, hint=error.hint) from error


class SampleStream:
    """Lazily reads the samples of `pipeline.input_uri`; keeps no data and no open file.

    `listing`, `probe` and `partitions` are for planning: a source that is not what it claims to be is a ConfigError
    there, and a SourceError in `read`.
    """

    def __init__(self, settings: Settings, *, budget: ByteBudget | None = None) -> None:
        """`budget` bounds what is read ahead; without one the reader has its own."""
        self._settings = settings
        self._pipeline = settings.pipeline
        self.transport = Transport(settings, budget=budget)

    def listing(self) -> Listing:
        """Every file of the source with its identity as of now.

        Raises ConfigError naming the URI when a file is missing, unreadable or the list is empty.
        """
        pipeline = self._pipeline
        uris = self._uris
        with _nothing_started():
            if pipeline.input_format == HUB or (pipeline.input_format == "auto" and _names_hub_dataset(uris)):
                return self._hub_listing(uris)
            files = self.transport.expand(uris)
            name = pipeline.input_format if pipeline.input_format != "auto" else registry.detect(files)
            reader = self.format(name)
            prepare = getattr(reader, "prepare", None)
            return Listing(name, tuple(prepare(files) if prepare else files))

    @property
    def _uris(self) -> list[str]:
        uri = self._pipeline.input_uri
        return [uri] if isinstance(uri, str) else list(uri)

    def named_uris(self) -> list[str]:
        """The web addresses that the config names one by one, with their signatures."""
        return [name for uri in self._uris if uri.startswith(("http://", "https://")) for name in braces(uri)]

    def _hub_listing(self, uris: Sequence[str]) -> Listing:
        from data_bridge.io.sources.hub import resolve_source

        if len(uris) != 1 or not uris[0].startswith("hf://"):
            raise ConfigError(
                f"pipeline.input_uri: a Hugging Face dataset is one `hf://org/name`, not {', '.join(map(shown, uris))}",
                hint="give one dataset, or name the format of the files with input_format",
            )
        name, files = resolve_source(uris[0], self._pipeline.source_options, self.transport)
        return Listing(name, tuple(files))

    def format(self, name: str) -> Format:
        """The reader of a format. Raises ConfigError for options it does not know."""
        return registry.make(name, self._pipeline.source_options, self.transport)

    def probe(self, listing: Listing) -> Probe:
        """Fields and first rows of the source."""
        with _nothing_started():
            return self.format(listing.format).probe(listing.files)

    def is_empty(self, listing: Listing, partitions: Sequence[Partition], probe: Probe) -> bool:
        """Whether the source holds no sample at all, good or bad. Reads no further than the first one."""
        if probe.rows or not partitions:
            return not probe.rows
        with _nothing_started():
            files = dict(enumerate(listing.files))
            return not any(batch.count for p in partitions for batch in self.read(listing.format, files, p, None))

    def partitions(
        self,
        listing: Listing,
        *,
        first_file: int = 0,
        start: dict[str, int] | None = None,
        order: Callable[[int], Sequence[int]] | None = None,
    ) -> list[Partition]:
        """Cut the listed files into partitions that depend on source and config alone.

        `first_file` numbers the files in the plan's table; `start` gives, per URI, the byte from where a grown file is new.
        `order` gives, for a number of runs (row groups, files), the order to read them in. Raises ConfigError where it is
        given and samples are not counted.
        """
        reader = self.format(listing.format)
        if order is not None and not reader.counted:
            raise ConfigError(
                f"the whole dataset cannot be shuffled: how many samples a {listing.format} source has is known only when it is read",
                hint="take `scope: partition`, or turn it into Parquet first",
            )
        with _nothing_started():
            extents = [
                (first_file + number, extent.model_copy(update={"start": (start or {}).get(file.uri, extent.start)}))
                for number, file in enumerate(listing.files)
                for extent in reader.extents(file)
            ]
        return cut_partitions(
            extents if order is None else [extents[number] for number in order(len(extents))],
            counted=reader.counted,
            partition_bytes=self._pipeline.partition_bytes,
            samples_per_shard=self._pipeline.samples_per_shard,
            limit=self._pipeline.limit,
        )

    def read(
        self, format_name: str, files: Mapping[int, SourceFile], partition: Partition, token: Token | None
    ) -> Generator[Batch]:
        """Samples of one partition in order, from the token of an earlier batch (None = from the start)."""
        check = self.checker(format_name)
        with closing(self.frames(format_name, files, partition, token)) as found:
            yield from map(check, found)

    def frames(
        self, format_name: str, files: Mapping[int, SourceFile], partition: Partition, token: Token | None
    ) -> Generator[Batch]:
        """As `read`, but what can be checked elsewhere is not checked yet: see `checker`."""
        pieces = [FilePiece(files[p.file], p.start, p.end) for p in partition.pieces]
        reader = self.format(format_name)
        yield from reader.frames(pieces, token) if isinstance(reader, CheckedLater) else reader.read(pieces, token)

    def checker(self, format_name: str) -> Callable[[Batch], Batch]:
        """What makes batches of `read` out of those of `frames`. Pure: any process may do it."""
        reader = self.format(format_name)
        return reader.checked if isinstance(reader, CheckedLater) else _as_it_is


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _names_hub_dataset(uris: Sequence[str]) -> bool:
    """Whether the only URI is a dataset (`hf://org/name`), not a file inside one."""
    if len(uris) != 1 or not uris[0].startswith("hf://"):
        return False
    return len(uris[0].removeprefix("hf://").removeprefix("datasets/").strip("/").split("/")) <= 2
