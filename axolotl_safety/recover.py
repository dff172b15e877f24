"""What Axolotl resolves for ``type: axolotl_safety.recover``: see `methods.recover`."""

from .pipeline.strategy import load

__all__ = ["load"]
