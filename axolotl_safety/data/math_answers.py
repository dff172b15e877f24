"""Gold answers of reasoning rows, and whether a response reaches one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from fractions import Fraction

from axolotl_safety.config.evaluation import MathJudge

_HASHES = re.compile(r"####\s*(.+?)\s*$", re.MULTILINE)
_BOXED = re.compile(r"\\boxed\s*\{")
_NUMBER = re.compile(r"(?<![\w.])[-\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")
_BARE = re.compile(r"\s*[$\u20ac\u00a3]?\s*([-\u2212+]?[\d,]*\.?\d+(?:/\d+)?)\s*%?\s*\.?\s*")


def gold_answer(reference: str) -> str | None:
    """The gold answer that a row's reference marks as one.

    Only a mark counts: ``#### N`` (GSM8K), ``\\boxed{N}`` (MATH), or a reference that is nothing but a number. The last
    number of any text would make a gold answer of the third item of a list.

    Returns:
        The answer as written, None where the row has none. The reference comes without its thought.
    """
    marked = _HASHES.findall(reference) or _boxed(reference)
    if marked:
        return marked[-1].strip() or None
    bare = _BARE.fullmatch(reference)
    return bare.group(1) if bare else None


def reaches(answer: str, gold: str) -> bool:
    """Whether a response's answer is the gold answer.

    The answer's own mark counts if it has one, else its last number. Numbers are compared as numbers, other answers
    by math-verify where that package is installed, else as text without blanks.
    """
    said = next(reversed(_HASHES.findall(answer) or _boxed(answer) or _NUMBER.findall(answer)), None)
    wanted, given = _value(gold), _value(said) if said is not None else None
    if wanted is not None and given is not None:
        return wanted == given
    if said is not None and re.sub(r"\s", "", said) == re.sub(r"\s", "", gold):
        return True
    return bool(_math_verify(answer, gold))


def _boxed(text: str) -> list[str]:
    """What stands in each closed ``\\boxed{...}``, braces inside included."""
    found = []
    for match in _BOXED.finditer(text):
        depth = 1
        for end in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                found.append(text[match.end() : end])
                break
    return found


def _value(text: str) -> Fraction | None:
    bare = _BARE.fullmatch(text)
    if not bare:
        return None
    try:
        return Fraction(bare.group(1).replace(",", "").replace("\u2212", "-"))
    except (ValueError, ZeroDivisionError):
        return None


def _math_verify(answer: str, gold: str) -> bool | None:
    """What math-verify says, None where it is not installed or fails on this answer."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return None
    if threading.current_thread() is not threading.main_thread():
        return None  # its time limits use signals, which only the main thread gets, and without them it may hang
    try:
        wanted = parse(f"${gold}$")
        return bool(wanted and verify(wanted, parse(answer)))
    except Exception:  # whatever a foreign parser makes of model output: not shown to be right
        return False


_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))
_LATEX = re.compile(r"\\|\$")


def _plain(text: str) -> str:
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()


def strict(answer: str, gold: str) -> bool:
    """The first ``#### N`` of the answer is the gold one."""
    found = _STRICT.search(answer)
    return found is not None and _plain(found.group(1)) == _plain(gold)


def flexible(answer: str, gold: str) -> bool:
    """The last number of the answer is the gold one."""
    found = _FLEXIBLE.findall(answer)
    if not found:
        return False
    return _plain((found[-1][0] or found[-1][1]).strip()) == _plain(gold)


def math_verify(answer: str, gold: str) -> bool:
    """Any expression of the answer equals the gold one; a gold answer that is no LaTeX is taken as a formula.

    math-verify limits its time by signals, so this works in the main thread only.
    """
    from math_verify import parse, verify

    formula = gold if _LATEX.search(gold) else f"\\boxed{{{gold_answer(gold) or gold}}}"
    return bool(verify(gold=parse(formula), target=parse(answer)))


def marked(answer: str, gold: str) -> bool:
    """The answer's mark (``#### N``, ``\\boxed{N}``), else its last number, is the gold answer."""
    return reaches(answer, gold_answer(gold) or gold)


JUDGES: dict[MathJudge, Callable[[str, str], bool]] = {
    "strict": strict,
    "flexible": flexible,
    "math_verify": math_verify,
    "marked": marked,
}
NAMES: dict[MathJudge, str] = {
    "strict": "lm-eval GSM8K strict-match",
    "flexible": "lm-eval GSM8K flexible-extract",
    "math_verify": "math-verify",
    "marked": "marked answer or last number, math-verify",
}
