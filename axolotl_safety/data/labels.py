"""Labels as datasets spell them: words, negated words, and 0/1 in a column whose name says what 1 means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

FoundLabel = Literal["harmful", "benign", "unknown"] | None

# Columns that say what a prompt is, in the public sets and their kin; of a response's label (is_safe) nothing follows.
COLUMNS = (
    "label",
    "prompt_label",
    "prompt_harm_label",
    "prompt_harmfulness",
    "harmful",
    "is_harmful",
    "prompt_is_harmful",
    "toxic",
    "is_toxic",
    "unsafe",
    "is_unsafe",
    "benign",
    "is_benign",
)
# Columns that say what kind of harm a prompt is about: STAR-1 and BeaverTails, and sets made after them.
CATEGORY_COLUMNS = ("category", "type")
_HARMFUL = frozenset({"harmful", "unsafe", "malicious", "toxic"})
_BENIGN = frozenset({"benign", "harmless", "safe", "unharmful", "nontoxic", "nonharmful"})
_NEGATIONS = frozenset({"not", "non", "un", "no"})
_TRUTH = {word: True for word in ("true", "yes", "1", "1.0")} | {word: False for word in ("false", "no", "0", "0.0")}


def read_label(value: Any, column: str) -> FoundLabel:
    """What a label says; ``unknown`` if that is not clear.

    Args:
        value: ``vanilla_harmful``, ``unharmful``, ``not safe``, or a truth value.
        column: its column; a truth value means something only under a name like ``toxic`` or ``is_benign``.
    """
    truth = _TRUTH.get(str(value).strip().lower())
    if truth is None:
        return _meaning(value) if isinstance(value, str) else "unknown"
    named = _meaning(column)
    if named == "unknown" or truth:
        return named
    return "benign" if named == "harmful" else "harmful"


def row_label(row: Mapping[str, Any]) -> FoundLabel:
    """The label in the first column that is known to hold one; None if the row has no such column."""
    for column in COLUMNS:
        if row.get(column) is not None:
            return read_label(row[column], column)
    return None


def row_categories(row: Mapping[str, Any], column: str | None = None) -> tuple[str, ...]:
    """The categories in a column, else in the first of ``CATEGORY_COLUMNS`` that holds any; empty if there is none.

    A word, a list of words (STAR-1), or a mapping of words to truth values (BeaverTails).
    """
    for name in (column,) if column else CATEGORY_COLUMNS:
        value = row.get(name)
        if isinstance(value, Mapping):
            value = [word for word, truth in value.items() if truth is True]
        words = value if isinstance(value, (list, tuple)) else [value]
        found = tuple(sound for word in words if isinstance(word, str) and (sound := word.strip()))
        if found:
            return found
    return ()


_LETTERS = re.compile(r"[a-z]+")


def _meaning(text: str) -> FoundLabel:
    found = set()
    negated = False
    for word in _LETTERS.findall(text.lower()):
        if word in _HARMFUL or word in _BENIGN:
            found.add((word in _HARMFUL) != negated)
        negated = word in _NEGATIONS
    if len(found) != 1:
        return "unknown"
    return "harmful" if found.pop() else "benign"
