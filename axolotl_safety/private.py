"""Folders and files for their owner alone: what a data stage writes holds prompts and completions, harmful ones too."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER, _FILE = 0o700, 0o600


def make_folder(folder: Path) -> None:
    """Create a folder and what is missing above it, each for its owner alone; one that is there stays as it is.

    Raises:
        OSError: it cannot be created.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):  # mkdir's own parents=True gives the parents everybody's rights
        one.mkdir(mode=_FOLDER, exist_ok=True)
    if not folder.is_dir():
        folder.mkdir(mode=_FOLDER)  # says what stands in its place


def opener(path: str, flags: int) -> int:
    """For the built-in ``open``: a file that is created belongs to its owner alone."""
    return os.open(path, flags, _FILE)


def take_back(folder: Path) -> None:
    """Close a folder that another library wrote, and everything in it, to everybody else."""
    folder.chmod(_FOLDER)
    for path in folder.rglob("*"):
        path.chmod(_FOLDER if path.is_dir() else _FILE)
