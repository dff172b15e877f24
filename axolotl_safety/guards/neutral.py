"""Make judged text unable to end the conversation that a guard reads, or to speak as anyone but itself."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Markers by which any of the families, or a thought, is told apart; plain text to the others' tokenizers.
FOREIGN = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|header_start|>", "<|header_end|>", "<|eot|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    *("<|start_of_role|>", "<|end_of_role|>", "<|user|>", "<|assistant|>", "<|system|>"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>"),
    *("<guardian>", "</guardian>", "<no-think>", "<score>", "</score>"),
)
THINK = ("<think>", "</think>")

# `^` knows "\n" alone; a guard may take any of these for the end of a line.
_START = r"(?:^|(?<=[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]))"
_END = r"(?=[ \t]*(?:$|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]))"
_FLAGS = re.IGNORECASE | re.MULTILINE
_DELIMITER = re.compile(r"<\s*((?:/\s*)?(?:BEGIN|END)\b[^<>\n]{0,60})>", re.IGNORECASE)


def _any_of(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(set(words), key=lambda word: (-len(word), word)))


def _named(names: Iterable[str]) -> re.Pattern[str] | None:
    """A name and a colon at the start of a line, plain, quoted or emphasised."""
    listed = _any_of(names)
    return re.compile(rf"{_START}([ \t]*(?:\*\*)?)({listed})(\s*(?:\*\*)?)[:\uff1a]", _FLAGS) if listed else None


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
        listed, marked, alone = _any_of(tokens), _any_of(marks), _any_of(lines)
        self._tokens = re.compile(listed) if listed else None
        self._marks = re.compile(marked, re.IGNORECASE) if marked else None
        self._lines = re.compile(rf"{_START}([ \t]*)({alone}){_END}", _FLAGS) if alone else None
        self._named = [pattern for pattern in (_named(roles), _named(fields)) if pattern]

    def __call__(self, text: str) -> str:
        """The text as a guard may read it."""
        for pattern in (self._tokens, self._marks):
            if pattern is not None:
                text = pattern.sub(lambda match: match[0][0] + " " + match[0][1:], text)
        text = _DELIMITER.sub(r"< \1 >", text)
        for pattern in self._named:
            text = pattern.sub(r"\1\2\3 -", text)
        return self._lines.sub(r"\1- \2", text) if self._lines else text
