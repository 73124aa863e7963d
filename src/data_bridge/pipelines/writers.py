"""Names to shard formats; the one place that imports them, only when needed."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from data_bridge.pipelines.writer import ShardWriter

WRITERS: Mapping[str, str] = MappingProxyType(
    {
        "webdataset": "data_bridge.pipelines.webdataset:WebDatasetWriter",
        "litdata": "data_bridge.pipelines.litdata:LitDataWriter",
    }
)


def writer_class(name: str) -> type[ShardWriter]:
    """The shard format of a pipeline name."""
    module, _, attribute = WRITERS[name].partition(":")
    found: type[ShardWriter] = getattr(import_module(module), attribute)
    return found
