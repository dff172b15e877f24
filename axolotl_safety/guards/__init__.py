"""Guards: prompt in, verdict out, fail closed."""

from __future__ import annotations

from collections.abc import Callable

from . import qwen3guard
from .base import Verdict

__all__ = ["FAMILIES", "Verdict", "parse"]

FAMILIES: dict[str, Callable[[str], Verdict]] = {"qwen3guard": qwen3guard.parse}


def parse(family: str, text: str) -> Verdict:
    """Read what a guard of this family wrote; whatever is not clearly safe is not safe.

    Raises:
        ValueError: no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"no guard family {family!r}; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[family](text)
