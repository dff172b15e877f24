"""Gold answers of reasoning rows, and whether a response reaches one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from fractions import Fraction

from axolotl_safety.config.evaluation import MathJudge

# A model's text may be long and hostile: nothing here may try the same characters again and again, so repetitions that
# could give back what they took are possessive.
_HASHES = re.compile(r"####\s*+(\S.*)")
_BRACES = re.compile(r"\\boxed\s*+\{|[{}]")
_NUMBER = re.compile(r"(?<![\w.])[-\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")
_BARE = re.compile(r"\s*+[$\u20ac\u00a3]?+\s*+([-\u2212+]?+[\d,]*+(?:\.\d++|(?<=\d))(?:/\d++)?+)\s*+%?+\s*+\.?+\s*+")
_BLANKS = re.compile(r"\s+")
_LONGEST_NUMBER = 4300  # digits that Python turns into an integer (sys.int_info.default_max_str_digits)
_LONGEST_FORMULA = 2000  # characters of an answer that math-verify is given


def gold_answer(reference: str) -> str | None:
    """The gold answer that a row's reference marks as one.

    Only a mark counts: ``#### N`` (GSM8K), ``\\boxed{N}`` (MATH), or a reference that is nothing but a number. The last
    number of any text would make a gold answer of the third item of a list.

    Returns:
        The answer as written, None where the row has none. The reference comes without its thought.
    """
    marked = _marked(reference)
    if marked is not None:
        return marked.strip() or None
    bare = _BARE.fullmatch(reference)
    return bare.group(1) if bare else None


def reaches(answer: str, gold: str) -> bool:
    """Whether a response's answer is the gold answer.

    The answer's own mark counts if it has one, else its last number. Numbers are compared as numbers, other answers
    by math-verify where that package is installed, else as text without blanks.
    """
    said = _marked(answer)
    if said is None:
        said = next(reversed(_NUMBER.findall(answer)), None)
    wanted, given = _value(gold), _value(said) if said is not None else None
    if wanted is not None and given is not None:
        return wanted == given
    if said is not None and _BLANKS.sub("", said) == _BLANKS.sub("", gold):
        return True
    return bool(_math_verify(answer, gold))


def _marked(text: str) -> str | None:
    """What the last mark of a text marks."""
    hashes = _HASHES.findall(text)
    return hashes[-1].rstrip() if hashes else _boxed(text)


def _boxed(text: str) -> str | None:
    """What stands in the last closed ``\\boxed{...}``, braces inside included, None where there is none."""
    opened: list[int | None] = []  # where each open brace's content begins; None for one that is no box
    last = (-1, -1)
    for match in _BRACES.finditer(text):
        if match[0] != "}":
            opened.append(None if match[0] == "{" else match.end())
        elif opened and (begin := opened.pop()) is not None:
            last = max(last, (begin, match.start()))
    return text[slice(*last)] if last[0] >= 0 else None


def _short(answer: str) -> str:
    """The end of an answer, with its last box if that stands before it: what math-verify reads, it reads many times."""
    if len(answer) <= _LONGEST_FORMULA:
        return answer
    tail, box = answer[-_LONGEST_FORMULA:], _boxed(answer)
    ahead = box is not None and len(box) <= _LONGEST_FORMULA and _boxed(tail) is None
    return f"\\boxed{{{box}}}\n{tail}" if ahead else tail


def _value(text: str) -> Fraction | None:
    bare = _BARE.fullmatch(text)
    if not bare or len(bare.group(1)) > _LONGEST_NUMBER:
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
        return bool(wanted and verify(wanted, parse(_short(answer))))
    except Exception:  # whatever a foreign parser makes of model output: not shown to be right
        return False


_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_LAST_DOT = re.compile(r"\.$")
_LATEX = re.compile(r"\\|\$")


def _plain(text: str) -> str:
    """Without what lm-eval's task ignores: commas, dollar signs, all up to the last ``#### ``, a last dot."""
    text = text.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return _LAST_DOT.sub("", text).lower()


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
    return bool(verify(gold=parse(formula), target=parse(_short(answer))))


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
