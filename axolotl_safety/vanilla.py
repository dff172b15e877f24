"""What Axolotl resolves for ``type: axolotl_safety.vanilla``: vanilla SFT, see `methods.vanilla`."""

from .pipeline.strategy import load

__all__ = ["load"]
