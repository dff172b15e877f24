"""What Axolotl resolves for ``type: axolotl_safety.thinksafe``: ThinkSafe, see `methods.thinksafe`."""

from .pipeline.strategy import load

__all__ = ["load"]
