"""Where a run writes when the config does not say."""

import re

from data_bridge.config import PipelineSettings, Settings

LOCAL_BASE = "data-bridge-out"


def dataset_name(pipeline: PipelineSettings) -> str:
    """A name for the dataset made from its source: `hf://laion/laion2B-en` -> `laion2B-en`."""
    uri = pipeline.input_uri if isinstance(pipeline.input_uri, str) else pipeline.input_uri[0]
    path = uri.partition("://")[2] or uri
    path = re.sub(r"[?@#].*$", "", path) if "://" in uri else path
    parts = [p for p in path.rstrip("/").split("/") if p and not any(c in p for c in "*?[{")]
    name = parts[-1] if parts else "dataset"
    stem = re.sub(r"(\.[A-Za-z][A-Za-z0-9]{0,6}){1,2}$", "", name) or name
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "dataset"
    return f"{clean}-first-{pipeline.limit}" if pipeline.limit else clean


def output_uri(settings: Settings, prefix: str | None = None) -> str:
    """The destination: `output_uri`, else below the `r2` bucket, else below ./data-bridge-out.

    A prefix takes the place of the dataset's name, or goes below an `output_uri` that is given.
    """
    pipeline = settings.pipeline
    if pipeline.output_uri is not None:
        scheme, colon, path = pipeline.output_uri.rpartition("://")
        base = path.rstrip("/") or ("/" if path.startswith("/") else "")
        return scheme + colon + (f"{base.rstrip('/')}/{prefix.strip('/')}" if prefix else base)
    name = (prefix or dataset_name(pipeline)).strip("/")
    if settings.r2 is not None and settings.r2.bucket:
        return "r2://" + "/".join(p for p in (settings.r2.bucket, settings.r2.prefix.strip("/"), name) if p)
    return f"{LOCAL_BASE}/{name}"
