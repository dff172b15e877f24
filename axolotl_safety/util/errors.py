"""Errors that end a run. Each message says what happened, the value seen, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .terminal import PlainError


class ConfigError(PlainError, ValueError):
    """The YAML asks for something that cannot work; raised before any engine starts."""


class NoSuchPlugin(PlainError, AttributeError):
    """The YAML names a plugin of this package that does not exist."""


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


def nearest(word: str, known: Iterable[str], cutoff: float) -> str | None:
    """The known word that is most alike, if it is alike enough (`difflib`'s ratio, 0 to 1)."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """``did you mean 'harm'? `` with the blank behind it, or nothing."""
    near = nearest(word, known, cutoff)
    return f"did you mean {near!r}? " if near else ""
