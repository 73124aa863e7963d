"""Settings: the only reader of config files and environment."""

from data_bridge.config.changes import exported, with_changes
from data_bridge.config.environment import hf_endpoint, hf_token, http_proxy, socket_folders, vast_key
from data_bridge.config.fields import Section, share
from data_bridge.config.fingerprint import byte_settings, changed_values, config_hash
from data_bridge.config.loading import explained, load_settings, overridden
from data_bridge.config.monitoring import MetricsSettings
from data_bridge.config.places import rentals_folder, run_folder, runs_folder, stages_folder
from data_bridge.config.portable import Portable, portable
from data_bridge.config.secrets import (
    hidden_in,
    is_secret_name,
    public_uri,
    public_value,
    redacted,
    secrets_in,
    with_open_secrets,
)
from data_bridge.config.settings import (
    FOREIGN,
    PipelineSettings,
    R2Settings,
    S3Settings,
    Settings,
    SourceOptions,
)
from data_bridge.config.stages import OutputSettings, PoolSettings, StageSettings, WriterSettings
from data_bridge.config.vast import VastSearch, VastSettings

__all__ = [
    "FOREIGN",
    "MetricsSettings",
    "OutputSettings",
    "PipelineSettings",
    "PoolSettings",
    "Portable",
    "R2Settings",
    "S3Settings",
    "Section",
    "Settings",
    "SourceOptions",
    "StageSettings",
    "VastSearch",
    "VastSettings",
    "WriterSettings",
    "byte_settings",
    "changed_values",
    "config_hash",
    "explained",
    "exported",
    "hf_endpoint",
    "hf_token",
    "hidden_in",
    "http_proxy",
    "is_secret_name",
    "load_settings",
    "overridden",
    "portable",
    "public_uri",
    "public_value",
    "redacted",
    "rentals_folder",
    "run_folder",
    "runs_folder",
    "secrets_in",
    "share",
    "socket_folders",
    "stages_folder",
    "vast_key",
    "with_changes",
    "with_open_secrets",
]
