"""What a config may say about metrics."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from data_bridge.config.fields import Section, field

LOOPBACK = "127.0.0.1"


def _address(value: object) -> object:
    """`9464`, `:9464` and `host:9464` as `host:9464`; only a host that is named is not the loopback."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no address: write a port, or host:port")  # noqa: TRY004 - pydantic wants these
    host, _, port = value.strip().rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{value!r} is no address: write a port, or host:port")
    return f"{host or LOOPBACK}:{int(port)}"


def _gateway(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a pushgateway is an address such as http://host:9091")
    return value.rstrip("/")


class MetricsSettings(Section):
    """Where a run's metrics go besides the files that `status` and `watch` read."""

    listen: Annotated[str, BeforeValidator(_address)] | None = field(
        None,
        byte=False,
        description="serve `/metrics` for Prometheus here: a port, on 127.0.0.1 unless a host is named (`0.0.0.0:9464`)",
    )
    pushgateway_url: Annotated[str, AfterValidator(_gateway)] | None = field(
        None, byte=False, description="push them to this Prometheus pushgateway every few seconds and at the end"
    )

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on."""
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)
