"""Inside a run: a disk without space, as the calls of the product see it, as the kernel says it, or a real one."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_CLONE_NEWNS = 0x00020000
_PRIVATE = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC
_BALLAST = "ballast"
_CAPABILITY_VERSION = 0x20080522


def _no_space(path: Any) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def install(what: str, number: int) -> None:
    """Fill the disk.

    Args:
        what: ``journal`` (the write is refused), ``short`` (the kernel takes a part of it), ``fsync``, ``parquet``,
            ``train``, ``manifest``, ``latest``, or ``limit`` (no file may grow beyond ``number`` bytes: the kernel's
            own short write and refusal).
        number: the first of its kind that finds no space; every later one finds none either.
    """
    {"parquet": _parquet, "train": _train, "limit": _limit}.get(what, _calls(what))(number)


def _calls(what: str) -> Callable[[int], None]:
    return {"journal": _journal, "short": _short, "fsync": _fsync}.get(what, lambda number: _file(what))


def _journal(number: int) -> None:
    real, seen = os.pwrite, [0]

    def pwrite(fd: int, data: bytes, place: int) -> int:
        seen[0] += 1
        if seen[0] >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, place)

    os.pwrite = pwrite


def _short(number: int) -> None:
    real, seen = os.pwrite, [0]

    def pwrite(fd: int, data: bytes, place: int) -> int:
        seen[0] += 1
        return real(fd, data[: len(data) // 3] if seen[0] >= number else data, place)

    os.pwrite = pwrite


def _fsync(number: int) -> None:
    """Where the space is given out late, only the flush finds that there is none."""
    real, seen = os.fsync, [0]

    def fsync(fd: int) -> None:
        seen[0] += 1
        if seen[0] >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    os.fsync = fsync


def _parquet(number: int) -> None:
    import pyarrow.parquet as parquet

    real = parquet.write_table

    def write_table(table: Any, file: Any, *arguments: Any, **named: Any) -> None:
        real(table, file, *arguments, **named)
        file.truncate(file.tell() // 2)
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    parquet.write_table = write_table


def _train(number: int) -> None:
    import datasets

    real = datasets.Dataset.save_to_disk

    def save_to_disk(table: Any, path: str, *arguments: Any, **named: Any) -> None:
        real(table, path, *arguments, **named)
        (Path(path) / "state.json").unlink()
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    datasets.Dataset.save_to_disk = save_to_disk


def _file(name: str) -> None:
    from axolotl_safety.util import files as atomic

    class Full:
        def __init__(self, file: Any):
            self._file = file

        def __getattr__(self, attribute: str) -> Any:
            return getattr(self._file, attribute)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, data: bytes) -> int:
            self._file.write(data[: len(data) // 2])
            raise _no_space(self._file.name)

    def opened(path: Any, *arguments: Any, **named: Any) -> Any:
        file = open(path, *arguments, **named)
        return Full(file) if f".{name}.json." in str(path) else file

    atomic.open = opened


def _limit(number: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, hard))


@contextmanager
def unlimited() -> Iterator[None]:
    """Meanwhile no `limit` holds: for what the campaign notes of a run, which is not what the limit is there for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Log:
    """A stream for what a run says. It is whole under every limit: its end is where the run says why it stopped."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._stream, attribute)

    def write(self, text: str) -> int:
        """Write it at once."""
        with unlimited():
            written = self._stream.write(text)
            self._stream.flush()
        return written


def mount_small(folder: Path) -> bool:
    """A file system of our own at a folder; whether this machine lets us."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _PRIVATE, None):
        return False
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def fill_up(folder: Path, number: int) -> None:
    """From the journal's write of this number on, another file takes all that is left."""
    real, seen = os.pwrite, [0]

    def pwrite(fd: int, data: bytes, place: int) -> int:
        seen[0] += 1
        if seen[0] == number:
            with open(folder / _BALLAST, "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
        return real(fd, data, place)

    os.pwrite = pwrite


def make_room(folder: Path) -> None:
    """Take that file away."""
    (folder / _BALLAST).unlink(missing_ok=True)


def drop_power() -> None:
    """Give up what lets root write where nobody may."""
    if os.geteuid():
        return
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capabilities could not be dropped")
