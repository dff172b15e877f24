"""Files that are there as a whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import ConfigError, StageError

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


def check_writable(work_dir: Path) -> None:
    """Create the folder and try to write into it.

    Raises:
        ConfigError: it cannot be written.
    """
    # Every rank looks, unlocked: one name each, or one would delete the other's.
    probe = work_dir / f".writable-{socket.gethostname()}-{os.getpid()}"
    try:
        work_dir.parent.mkdir(parents=True, exist_ok=True)  # what lies above it may be everybody's
        make_folder(work_dir)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"safety.work_dir {str(work_dir)!r} cannot be written: {error}. Set it to a folder on a disk with space "
            "that this user may write."
        ) from error


# A disk that is full, over its quota, read-only, forbidden or broken; EFBIG is a limit on a file's size.
_DISK = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
)


@contextmanager
def writing_in(work_dir: Path) -> Iterator[None]:
    """End with the place and the way out when a disk does not take what is written.

    Raises:
        StageError: in the place of an OSError of a disk, which often names neither.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise StageError(
            f"cannot write in {work_dir}: {error}. Make room there, or see to it that this user may "
            "write, and run the same command again: finished work is kept."
        ) from error
