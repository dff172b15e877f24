"""Text that a model or a stranger wrote, made safe to show on a terminal."""

from __future__ import annotations

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
