"""Text that a model or a stranger wrote, made safe to show on a terminal."""

from __future__ import annotations

import logging
import unicodedata

_KEPT = "\n\t"


def visible(text: str) -> str:
    """The same text with every character that steers instead of showing spelt out, such as ``\\x1b``.

    Control characters (a terminal obeys them), format characters (they reorder or hide text, as bidirectional
    overrides and zero-width marks do), and lone surrogates (they cannot be encoded).
    """
    return "".join(_spelt(letter) for letter in text)


def _spelt(letter: str) -> str:
    if letter in _KEPT or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def escape(text: str) -> str:
    """Text from files as rich may show it: neither markup nor anything that a terminal obeys."""
    from rich.markup import escape as escape_markup  # not at import: a Ray node has this file and no rich

    return escape_markup(visible(text))


class PlainError(Exception):
    """An error whose message may quote what a stranger wrote: a column's name, a server's reply, the end of a log."""

    def __init__(self, *parts: object):
        """Keep the parts; text is spelt out."""
        super().__init__(*(visible(part) if isinstance(part, str) else part for part in parts))


class _Plain(logging.Handler):
    """Spells a message out before the handlers further up show it; shows nothing itself."""

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = visible(record.getMessage()), ()


def log_plainly(logger: logging.Logger) -> None:
    """Have everything that is logged below this logger spelt out; the same when called again."""
    if not any(isinstance(handler, _Plain) for handler in logger.handlers):
        logger.addHandler(_Plain())
