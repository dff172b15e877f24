"""Regular expressions that a user writes: compiled with a clear error, and texts that they match."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable
from re import _constants as ops  # type: ignore[attr-defined]  # what `re` itself reads patterns with, since 3.11
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

_MOST = 16  # examples of one pattern; enough to see every word of a verdict
_TRIED = "x0 -_.\n"  # one of them fits nearly any class of signs
_LONGEST, _SECONDS = 2048, 0.1  # characters of a long reply, and what one look at it may take
_EMPTY = (ops.AT, ops.ASSERT, ops.ASSERT_NOT, ops.GROUPREF)
_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT)


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, compiled.

    Raises:
        ValueError: what is wrong with it, and where.
    """
    try:
        found = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression of Python's: {pattern!r}: {error}") from None
    if _takes_long(found):
        raise ValueError(
            f"too slow: {pattern!r} can be matched in so many ways that a long reply takes seconds or hours; write no "
            r"repeat within a repeat, as (\w+\s*)+ has one, and no row of several .*"
        )
    return found


def _takes_long(pattern: re.Pattern[str]) -> bool:
    """Whether the time on longer and longer texts, which almost match, gets out of hand."""
    example = next(iter(examples(pattern)), "")
    for unit in {"x", " ", "x ", "x\n", example or "x", example[:-1] or "x", example[:1] or "x"}:
        length = 8
        while length < _LONGEST:
            text = (unit * length)[:length] + "\0"
            started = time.thread_time()
            pattern.fullmatch(text)
            pattern.search(text)
            if time.thread_time() - started > _SECONDS:
                return True
            length += 1 + length // 8
    return False


def examples(pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Short texts that the pattern matches as a whole, one for each way through it up to a limit; perhaps none."""
    found = _texts(parser.parse(pattern.pattern, pattern.flags))
    return tuple(dict.fromkeys(text for text in found if text and pattern.fullmatch(text)))


def literal_start(pattern: re.Pattern[str]) -> str:
    """The text that every match begins with, letter by letter; empty where there is a choice at the start."""
    if pattern.flags & re.IGNORECASE:
        return ""
    letters = []
    for op, value in parser.parse(pattern.pattern, pattern.flags):
        if op is ops.LITERAL:
            letters.append(chr(value))
        elif op is ops.BRANCH:  # "safe|sane" is read as "sa" and a choice, and is no word
            return ""
        elif op is not ops.AT:
            break
    return "".join(letters)


def _texts(items: Iterable[tuple[Any, Any]]) -> list[str]:
    parts = [_choices(op, value) for op, value in items]
    return ["".join(chosen) for chosen in itertools.islice(itertools.product(*parts), _MOST)]


def _choices(op: Any, value: Any) -> list[str]:
    if op is ops.LITERAL:
        return [chr(value)]
    if op is ops.ANY:
        return ["x"]
    if op in (ops.IN, ops.NOT_LITERAL):
        return _signs(value if op is ops.IN else [(ops.NEGATE, None), (ops.LITERAL, value)])
    if op is ops.BRANCH:
        return [text for branch in value[1] for text in _texts(branch)][:_MOST]
    if op is ops.SUBPATTERN:
        return _texts(value[-1])
    if op is ops.ATOMIC_GROUP:
        return _texts(value)
    if op in _REPEATS:
        least, _, inner = value
        return [text * min(least, _MOST) for text in _texts(inner)] if least else ["", *_texts(inner)][:_MOST]
    return [""] if op in _EMPTY else []


def _signs(members: list[tuple[Any, Any]]) -> list[str]:
    """A sign of each member of a class; one outside of it where it is negated. Who asks checks what came of it."""
    negated = bool(members) and members[0][0] is ops.NEGATE
    named = [chr(value) for op, value in members if op is ops.LITERAL]
    named += [chr(value[0]) for op, value in members if op is ops.RANGE]
    if negated:
        return [sign for sign in _TRIED if sign not in named][:4]
    categories = any(op is ops.CATEGORY for op, _ in members)
    return [*named, *(_TRIED if categories else "")][:_MOST]
