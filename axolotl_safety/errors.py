"""Errors that end a run. Each message says what happened, the value seen, and the way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .terminal import PlainError

# A disk that is full, over its quota, read-only, forbidden or broken; EFBIG is a limit on a file's size.
_DISK = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
)


class ConfigError(PlainError, ValueError):
    """The YAML asks for something that cannot work; raised before any engine starts."""


class DataError(PlainError, ValueError):
    """A dataset cannot be read or understood as a whole (single bad rows are counted rejects instead)."""


class ModelError(PlainError, ValueError):
    """The base model's tokenizer, chat template or files cannot serve the hand-off."""


class StageError(PlainError, RuntimeError):
    """The data stage ran and cannot deliver."""


class NothingAccepted(StageError):
    """The data stage ran to its end, every row of a dataset was rejected, and the report says why."""


class RowError(ValueError):
    """A source row that cannot be used; the message is its reject reason."""


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
