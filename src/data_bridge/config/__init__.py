"""Settings: the only reader of config files and environment."""

from data_bridge.config.environment import hf_endpoint, hf_token, http_proxy
from data_bridge.config.fingerprint import byte_settings, changed_values, config_hash
from data_bridge.config.loading import load_settings, overridden
from data_bridge.config.secrets import is_secret_name, public_uri, secrets_in, with_open_secrets, without_secrets
from data_bridge.config.settings import (
    PipelineSettings,
    R2Settings,
    S3Settings,
    Section,
    Settings,
    SourceOptions,
    VastSettings,
)

__all__ = [
    "PipelineSettings",
    "R2Settings",
    "S3Settings",
    "Section",
    "Settings",
    "SourceOptions",
    "VastSettings",
    "byte_settings",
    "changed_values",
    "config_hash",
    "hf_endpoint",
    "hf_token",
    "http_proxy",
    "is_secret_name",
    "load_settings",
    "overridden",
    "public_uri",
    "secrets_in",
    "with_open_secrets",
    "without_secrets",
]
