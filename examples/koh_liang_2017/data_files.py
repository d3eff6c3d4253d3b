"""Data files of the experiments: the error for one that is absent or damaged, and where it is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class DataError(Exception):
    """A data file that is absent or is not what its name says."""


def locate(folder: Path, name: str, subfolders: Sequence[str], source: str) -> Path:
    """The file `name`, or `name`.gz, in `folder` or one of its subfolders.

    Args:
        subfolders: looked into in this order after the folder itself.
        source: where the file can be had, a phrase that ends the error's message.

    Raises:
        DataError: it is in none of them; the message says how to pass the folder and where to get the file.
    """
    for sub in ("", *subfolders):
        for suffix in (".gz", ""):
            path = folder / sub / (name + suffix)
            if path.is_file():
                return path
    inside = f" (nor in its subfolders {', '.join(subfolders)})" if subfolders else ""
    raise DataError(
        f"{name}[.gz] was not found in {folder}{inside}. Pass --data DIR, or set the environment variable "
        f"WHEREFROM_DATA, to a folder that holds it. {source}"
    )
