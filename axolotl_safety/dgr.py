"""What Axolotl resolves for ``type: axolotl_safety.dgr``: DGR, see `methods.dgr`."""

from .pipeline.strategy import load

__all__ = ["load"]
