"""Sources: `SampleStream` reads any of them; one module per format."""

from data_bridge.io.sources.stream import SampleStream

__all__ = ["SampleStream"]
