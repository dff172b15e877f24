"""Thoughts that a guard writes before its verdict."""

from __future__ import annotations

import re

from .neutral import THINK

# How models mark thoughts that a server leaves in front of the answer.
THOUGHTS = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning")),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
)


def without_thoughts(text: str) -> str:
    """What stands behind the thoughts that a reply begins with; the text as it is where one does not end.

    The first may lack its opening mark, which is in the prompt of some models.
    """
    text, place = text.strip(), 0
    close = next((close for opened, close in THOUGHTS if text.startswith(opened)), THINK[1])
    while close is not None:
        end = text.find(close, place)
        if end < 0:
            break
        place = end + len(close)
        blank = _BLANKS.match(text, place)
        place = blank.end() if blank else place
        close = next((close for opened, close in THOUGHTS if text.startswith(opened, place)), None)
    return text[place:]


_BLANKS = re.compile(r"\s++")
