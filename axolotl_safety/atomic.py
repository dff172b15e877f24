"""Files that are there as a whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .private import make_folder, opener

LOG = logging.getLogger(__name__)

_LEFT_SECONDS = 3600.0


def part_of(path: Path) -> Path:
    """Where this process writes a file or folder before it takes its place."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file for its owner alone that takes another's place when it is written to its end.

    A reader sees the old or the new one, never a part, and not even a power cut leaves an empty one.

    Raises:
        OSError: the disk is full or read-only; the old file is untouched and no part-file stays behind.
    """
    make_folder(path.parent)
    part = part_of(path)
    try:
        with open(part, "wb", opener=opener) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file as a whole, as ``replacing`` does.

    Raises:
        OSError: the disk is full or read-only; the old file is untouched and no part-file stays behind.
    """
    with replacing(path) as file:
        file.write(data)


def remove_left_parts(folder: Path) -> None:
    """Remove what killed runs were writing. Younger than an hour it may be at work, perhaps on another machine."""
    for part in sorted(folder.rglob(".*.part")):
        try:
            if time.time() - part.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        except FileNotFoundError:  # it has taken its place, or another run has removed it
            continue
        except OSError as error:
            LOG.warning("%s is left of a killed run and cannot be removed: %s", part, error)
