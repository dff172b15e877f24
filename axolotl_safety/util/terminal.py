"""Text that a model or a stranger wrote, or that may hold a key, made safe to show and to keep."""

from __future__ import annotations

import logging
import re
import unicodedata

_KEPT = "\n\t"
_USER = re.compile(r"(?<=://)[^/?#\s]+(?=@)")  # user and password of an address; a password may hold an @
_KEY = re.compile(  # in its query or fragment, by name
    r"([?&;#](?=[^=?&;#\s]*?(?:token|key|secret|pass|pwd|sig|credential|auth))[^=?&;#\s]*+=)[^&;#\s'\"]+",
    re.IGNORECASE,
)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


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


def storable(text: str) -> str:
    """Text that Arrow can store: lone surrogates are shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def without_credentials(text: str) -> str:
    """The same text without what an address in it may give away: user, password, keys in its query, a hub's token.

    Example:
        >>> without_credentials("https://me:pass@host/rows.jsonl?token=abc&split=train")
        'https://***@host/rows.jsonl?token=***&split=train'
    """
    return _HUB_TOKEN.sub("hf_***", _KEY.sub(r"\1***", _USER.sub("***", text)))


def presentable(text: str) -> str:
    """Text for an error or a log: nothing in it steers a terminal, and nothing opens a door."""
    return visible(without_credentials(text))


def escape(text: str) -> str:
    """Text from files as rich may show it: neither markup nor anything that a terminal obeys."""
    from rich.markup import escape as escape_markup  # not at import: a Ray node has this file and no rich

    return escape_markup(visible(text))


class PlainError(Exception):
    """An error whose message may quote what a stranger wrote: a column's name, a server's reply, the end of a log.

    It may also quote an address from the YAML, which is shown without its user and keys.
    """

    def __init__(self, *parts: object):
        """Keep the parts; text is spelt out."""
        super().__init__(*(presentable(part) if isinstance(part, str) else part for part in parts))


class _Plain(logging.Handler):
    """Spells a message out before the handlers further up show it; shows nothing itself."""

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = presentable(record.getMessage()), ()


def log_plainly(logger: logging.Logger) -> None:
    """Have everything that is logged below this logger spelt out; the same when called again."""
    if not any(isinstance(handler, _Plain) for handler in logger.handlers):
        logger.addHandler(_Plain())
