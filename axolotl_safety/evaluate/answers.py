"""Whether an answer to a reasoning prompt is right.

``flexible`` and ``strict`` are lm-eval's two readings of GSM8K (0.4.11, gsm8k.yaml: filters and exact_match with
what it ignores), ``math_verify`` is what its MATH tasks call so (minerva_math500), and ``marked`` is our own for files
without a convention: the answer's own mark if it has one, else its last number.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..config.evaluation import MathJudge
from ..gold import gold_answer, reaches

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
