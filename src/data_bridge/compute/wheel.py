"""The wheel of exactly the version that runs here, made from what is installed: no repository and no builder is needed."""

import base64
import hashlib
import io
import zipfile
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

DISTRIBUTION = "train-data-bridge"
_KEPT = ("METADATA", "entry_points.txt")
_WHEEL = "Wheel-Version: 1.0\nGenerator: data-bridge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_MADE = (1980, 1, 1, 0, 0, 0)


def wheel() -> tuple[str, bytes]:
    """Its file name and content; equal installations give equal bytes."""
    installed = distribution(DISTRIBUTION)
    name = f"{DISTRIBUTION.replace('-', '_')}-{installed.version}"
    info = f"{name}.dist-info"
    package = Path(str(files("data_bridge")))
    content = {
        f"data_bridge/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    content |= {f"{info}/{kept}": (installed.read_text(kept) or "").encode() for kept in _KEPT}
    content[f"{info}/WHEEL"] = _WHEEL.encode()
    record = f"{info}/RECORD"
    content[record] = "".join([*(_line(path, data) for path, data in content.items()), f"{record},,\n"]).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(zipfile.ZipInfo(path, _MADE), data, zipfile.ZIP_DEFLATED)
    return f"{name}-py3-none-any.whl", made.getvalue()


def _line(path: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}\n"
