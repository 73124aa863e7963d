"""Botocore's descriptions of services, read in a fraction of the time botocore takes: every process pays for them."""

import gzip
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from botocore.loaders import JSONFileLoader, Loader


class _Files(JSONFileLoader):
    def load_file(self, file_path: str) -> Any:
        """The content of a file named without its ending, None when there is none: megabytes, so not by `json`."""
        for name, opened in ((f"{file_path}.json", open), (f"{file_path}.json.gz", gzip.open)):
            with suppress(FileNotFoundError), opened(name, "rb") as file:
                return orjson.loads(file.read())
        return None


class Models(Loader):
    """Finds what botocore's own loader finds."""

    def __init__(self) -> None:
        super().__init__(file_loader=_Files())

    def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 - as in the base class
        """Every name that may be that of a service: botocore looks into four hundred folders to be sure."""
        folders = (folder for folder in map(Path, self.search_paths) if folder.is_dir())
        return sorted({entry.name for folder in folders for entry in folder.iterdir()})
