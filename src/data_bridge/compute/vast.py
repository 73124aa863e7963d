"""Rented machines of Vast.ai: the client, and a machine for the length of a block."""

from data_bridge.clients.vast import VastClient
from data_bridge.compute.session import VastSession
from data_bridge.config import Settings, VastSettings, vast_key
from data_bridge.errors import ConfigError

__all__ = ["VastClient", "VastSession", "connect"]


def connect(settings: Settings | None = None) -> VastClient:
    """The account of the config, else of the vendor's own tools. Raises ConfigError where there is no key."""
    vast = (settings.vast if settings is not None else None) or VastSettings()
    key = vast.api_key or vast_key()
    if key is None:
        raise ConfigError(
            "no key of Vast.ai", hint="set vast.api_key in the config, or VAST_API_KEY in the environment"
        )
    return VastClient(key.get_secret_value(), vast.api_url)
