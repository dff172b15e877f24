"""The journal: one line per finished completion, verdict and score, appended as they finish.

A line is one JSON object whose first keys are ``kind`` and ``request_id`` and whose last is a checksum, so that
reading 10,000 lines back needs no parsing and no line that a crash, a disk or a stranger damaged is believed.
A torn last line is cut off before anything is appended; a damaged line elsewhere is left where it is, counted
and never used.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from axolotl_safety.util import jsonl
from axolotl_safety.util.files import make_folder

LOG = logging.getLogger(__name__)

_FSYNC_SECONDS = 2.0
_HEAD = re.compile(rb'\{"kind":"([a-z]+)","request_id":"([^"\\]+)"')
_TAIL = re.compile(rb',"crc":"([0-9a-f]{8})"\}\Z')


def encode_record(kind: str, request_id: str, fields: Mapping[str, Any]) -> bytes:
    """One journal line, newline included."""
    body = jsonl.dump({"kind": kind, "request_id": request_id, **fields})[:-1]
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


def read_head(line: bytes) -> tuple[str, str] | None:
    """Kind and request id of a sound line (without its newline), or None."""
    head, tail = _HEAD.match(line), _TAIL.search(line)
    if not head or not tail or int(tail.group(1), 16) != zlib.crc32(line[: tail.start()]):
        return None
    return head.group(1).decode(), head.group(2).decode()


class Journal:
    """An append-only store of finished work, one writer at a time (the stage's lock sees to that).

    Only the places of the records are kept in memory, so its size does not grow with the completions.
    """

    def __init__(self, path: Path, read_only: bool = False):
        """Open a journal, creating it, and find what it holds.

        Args:
            path: of the file.
            read_only: look at what is there, while another process may be writing; nothing is created or cut off.

        Raises:
            OSError: the file cannot be read or written.
        """
        self.path = path
        self.damaged = 0
        self.doubled = 0
        self._places: dict[tuple[str, str], tuple[int, int]] = {}
        self._read_only = read_only
        self._end, self._fd = 0, -1
        if not read_only:
            make_folder(path.parent)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        elif path.exists():
            self._fd = os.open(path, os.O_RDONLY)
        if self._fd >= 0:
            self._end = self._scan()
        self._synced = time.monotonic()

    def _scan(self) -> int:
        end = 0
        with open(self.path, "rb") as file:
            for line in file:
                ended = line.endswith(b"\n")
                key = read_head(line.rstrip(b"\r\n"))
                if not ended and self._read_only:
                    break  # its writer is not done with it
                if not ended and key is None:
                    LOG.warning("%s: cut off a torn last record of %d bytes", self.path, len(line))
                    os.ftruncate(self._fd, end)
                    break
                if key is None:
                    self.damaged += 1
                elif key in self._places:
                    self.doubled += 1  # the first one stands
                else:
                    self._places[key] = (end, len(line))
                end += len(line)
                if not ended:  # whole but for its end, which the checksum shows
                    end += os.pwrite(self._fd, b"\n", end)
                    break
        if self.damaged or self.doubled:
            LOG.warning(
                "%s: %d damaged and %d doubled records are ignored (work that only they held is done again)",
                self.path,
                self.damaged,
                self.doubled,
            )
        return end

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def keys(self) -> Iterator[tuple[str, str]]:
        """Every (kind, request id) that is held."""
        return iter(self._places)

    def get(self, kind: str, request_id: str) -> dict[str, Any] | None:
        """Read one record back from the disk."""
        place = self._places.get((kind, request_id))
        return jsonl.load(os.pread(self._fd, place[1], place[0])) if place else None

    def append(self, kind: str, request_id: str, fields: Mapping[str, Any]) -> None:
        """Write one record. It is with the operating system when this returns, on the disk within two seconds.

        Raises:
            OSError: the disk is full or gone, and the file is named; what was half written is cut off again.
        """
        if (kind, request_id) in self._places:
            return
        line = encode_record(kind, request_id, fields)
        try:
            written = os.pwrite(self._fd, line, self._end)
            if written != len(line):
                said = f"{os.strerror(errno.ENOSPC)}: only {written} of {len(line)} bytes could be written"
                raise OSError(errno.ENOSPC, said, str(self.path))
        except OSError as error:
            error.filename = str(self.path)  # which a refused write does not say by itself
            os.ftruncate(self._fd, self._end)
            raise
        self._places[kind, request_id] = (self._end, len(line))
        self._end += len(line)
        if time.monotonic() - self._synced > _FSYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Force everything to the disk."""
        os.fsync(self._fd)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close; safe to call twice."""
        if self._fd >= 0:
            if not self._read_only:
                self.sync()
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()
