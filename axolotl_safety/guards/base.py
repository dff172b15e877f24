"""What a guard says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """A guard's judgement of one response. Whatever is not clearly safe is not safe.

    Attributes:
        safe: True only for an unambiguous, complete verdict that says so.
        refusal: whether the response refuses; None where the guard does not say, or says it unclearly.
        reason: empty when safe, else ``unsafe``, ``controversial`` or ``unparsable``.
        categories: harm categories as the guard names them.
    """

    safe: bool
    refusal: bool | None = None
    reason: str = ""
    categories: tuple[str, ...] = ()
