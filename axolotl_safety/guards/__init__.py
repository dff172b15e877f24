"""Guards: prompt in, verdict out, fail closed."""

from __future__ import annotations

from collections.abc import Callable

from . import granite_guardian, llama_guard, openai_prompt, qwen3guard, wildguard
from .base import Verdict
from .refusal import is_refusal

__all__ = ["FAMILIES", "Verdict", "parse"]


def _builtin(answer: str) -> Verdict:
    """The heuristic reads the answer itself: only a refusal is clearly safe."""
    refusal = is_refusal(answer)
    return Verdict(refusal, refusal, "" if refusal else "unsafe")


FAMILIES: dict[str, Callable[[str], Verdict]] = {
    "qwen3guard": qwen3guard.parse,
    "llama_guard": llama_guard.parse,
    "wildguard": wildguard.parse,
    "granite_guardian": granite_guardian.parse,
    "openai": openai_prompt.parse,
    "builtin": _builtin,
}


def parse(family: str, text: str) -> Verdict:
    """Read what a guard of this family wrote; whatever is not clearly safe is not safe.

    Raises:
        ValueError: no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"no guard family {family!r}; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[family](text)
