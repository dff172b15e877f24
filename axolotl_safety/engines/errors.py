"""What an engine raises when the run cannot go on."""

from __future__ import annotations

from axolotl_safety.terminal import PlainError


class EngineError(PlainError, RuntimeError):
    """The engine cannot go on. The message says what happened, the value seen and the way out."""
