"""What vendors' own tools keep in the environment and in files of the user: endpoints, tokens, proxies."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr


def hf_endpoint(env: Mapping[str, str] = os.environ) -> str:
    """Where the Hugging Face Hub is, as `huggingface_hub` finds it."""
    return (env.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hf_token(env: Mapping[str, str] = os.environ) -> SecretStr | None:
    """The Hub token of the environment or of the file that `hf auth login` wrote; None = anonymous."""
    if env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    token = env.get("HF_TOKEN") or env.get("HUGGING_FACE_HUB_TOKEN")
    if not token:
        cache = Path(env.get("XDG_CACHE_HOME") or "~/.cache")
        home = Path(env.get("HF_HOME") or cache / "huggingface")
        file = Path(env.get("HF_TOKEN_PATH") or home / "token").expanduser()
        token = file.read_text(encoding="utf-8") if file.is_file() and os.access(file, os.R_OK) else ""
    token = token.strip()
    return SecretStr(token) if token else None


def vast_key(env: Mapping[str, str] = os.environ) -> SecretStr | None:
    """The key of Vast.ai, as its own tools keep it: in VAST_API_KEY, or in the file that they wrote."""
    key = env.get("VAST_API_KEY", "")
    folder = Path(env.get("XDG_CONFIG_HOME") or "~/.config")
    for file in (folder / "vastai" / "vast_api_key", Path("~/.vast_api_key")):
        place = file.expanduser()
        if not key and place.is_file() and os.access(place, os.R_OK):
            key = place.read_text(encoding="utf-8")
    key = key.strip()
    return SecretStr(key) if key else None


def http_proxy(url: str, env: Mapping[str, str] = os.environ) -> str | None:
    """The proxy that the environment (`https_proxy`, `http_proxy`, `all_proxy`, `no_proxy`) sets for a URL."""
    scheme, _, rest = url.partition("://")
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    proxy = next((env[name] for name in names if env.get(name)), None)
    if proxy is None:
        return None
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed leaves it out

    bypass = env.get("no_proxy") or env.get("NO_PROXY") or ""
    host = rest.partition("/")[0].rpartition("@")[2]
    return None if proxy_bypass_environment(host, {"no": bypass}) else proxy


def socket_folders(env: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Where a running run may listen for commands, best first. Another terminal's environment may differ in
    XDG_RUNTIME_DIR and TMPDIR, so who looks for a run looks in all of them."""
    user = os.getuid()
    runtime = [env["XDG_RUNTIME_DIR"]] if env.get("XDG_RUNTIME_DIR") else []
    own = [Path(folder) / "data-bridge" for folder in (*runtime, f"/run/user/{user}")]
    shared = [Path(folder) / f"data-bridge-{user}" for folder in (tempfile.gettempdir(), "/tmp")]  # noqa: S108 - checked
    return tuple(dict.fromkeys([*own, *shared]))
