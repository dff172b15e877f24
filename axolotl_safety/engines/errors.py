"""What an engine raises when the run cannot go on."""

from __future__ import annotations


class EngineError(RuntimeError):
    """The engine cannot go on. The message says what happened, the value seen and the way out."""
