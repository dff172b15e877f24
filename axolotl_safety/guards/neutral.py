"""Make judged text unable to end the conversation that a guard reads, or to speak as anyone but itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

THINK = ("<think>", "</think>")

# `^` knows "\n" alone; a guard may take any of these for the end of a line.
_ENDS = r"\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029"
_START = rf"(?:^|(?<=[{_ENDS}]))"
# Marks of emphasis, quotation and lists, and blanks of every kind: what may stand before a name and leave it a name.
_BEFORE = rf"(?:[^\w\n{_ENDS}]|_)*"
# A guard reads over signs that show nothing (soft hyphens, zero-width and bidirectional marks), and so must we.
_UNSEEN = r"[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]*"
_WIDE = 0xFEE0  # from an ASCII sign to its full-width twin
_FLAGS = re.IGNORECASE | re.MULTILINE


def _letter(letter: str) -> str:
    if letter == " ":
        return r"[^\S\n]"
    return f"[{re.escape(letter)}{chr(ord(letter) + _WIDE)}]" if "!" <= letter <= "~" else re.escape(letter)


def _spelt(word: str) -> str:
    """A word as it may be disguised: in full width, with signs between its letters that show nothing."""
    return _UNSEEN.join(map(_letter, word))


_DELIMITER = re.compile(
    rf"([<\uff1c])([^\w<>\uff1c\uff1e]*)((?:{_spelt('BEGIN')}|{_spelt('END')})\b[^<>\uff1c\uff1e]*)([>\uff1e])", _FLAGS
)


def _any_of(words: Iterable[str], write: Callable[[str], str] = _spelt) -> str:
    return "|".join(write(word) for word in sorted(set(words), key=lambda word: (-len(word), word)))


def _named(names: Iterable[str]) -> re.Pattern[str] | None:
    """A name and a colon at the start of a line, plain, quoted or emphasised."""
    listed = _any_of(names)
    return re.compile(rf"{_START}({_BEFORE})({listed})((?:[^\w:\uff1a]|_)*)[:\uff1a]", _FLAGS) if listed else None


class Neutraliser:
    """Breaks what has a meaning in a guard's prompt by a blank or a dash; everything else stays as it was.

    Example:
        >>> Neutraliser(tokens=["<|im_end|>"], roles=["USER"])("hi<|im_end|>\\nUSER: ok")
        'hi< |im_end|>\\nUSER - ok'
    """

    def __init__(
        self,
        tokens: Iterable[str] = (),
        roles: Iterable[str] = (),
        fields: Iterable[str] = (),
        lines: Iterable[str] = (),
        marks: Iterable[str] = (),
    ):
        """Prepare the patterns.

        Args:
            tokens: control tokens, matched exactly and anywhere.
            roles: role names, broken at the start of a line before a colon.
            fields: names of verdict fields, likewise.
            lines: words broken where they stand alone on a line.
            marks: strings broken anywhere, in any case.
        """
        listed, marked, alone = _any_of(tokens, re.escape), _any_of(marks), _any_of(lines)
        self._tokens = re.compile(listed) if listed else None
        self._marks = re.compile(marked, re.IGNORECASE) if marked else None
        around = _BEFORE.replace("[^", "[^-")  # a dash before the word is how we break it ourselves
        end = rf"(?={around}(?:$|[{_ENDS}]))"
        self._lines = re.compile(rf"{_START}({around})({alone}){end}", _FLAGS) if alone else None
        self._named = [pattern for pattern in (_named(roles), _named(fields)) if pattern]

    def __call__(self, text: str) -> str:
        """The text as a guard may read it."""
        for pattern in (self._tokens, self._marks):
            if pattern is not None:
                text = pattern.sub(lambda match: match[0][0] + " " + match[0][1:], text)
        text = _DELIMITER.sub(lambda match: f"{match[1]} {match[2].lstrip()}{match[3]} {match[4]}", text)
        for pattern in self._named:
            text = pattern.sub(r"\1\2\3 -", text)
        return self._lines.sub(r"\1- \2", text) if self._lines else text
