"""axolotl-safety: DGR and ThinkSafe as a data stage of Axolotl.

Importing this package imports nothing but the standard library: Axolotl skips a plugin whose import
fails and trains on without it, so the import must not be able to fail for want of something heavy.
"""

from __future__ import annotations

from typing import Any

from .util.version import __version__

__all__ = ["SafetyPlugin", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "SafetyPlugin":
        from axolotl_safety.plugin import SafetyPlugin

        return SafetyPlugin
    if name == "grpo":  # Axolotl resolves types under `rl:` as functions of a top-level package
        from axolotl_safety.methods.grpo.dataset import load

        return load
    if name[:1].isupper() or "plug" in name.lower():  # a class that `plugins:` names: no hook of ours runs then
        from axolotl_safety.util.errors import NoSuchPlugin
        from axolotl_safety.util.shown import show_plainly

        show_plainly()
        raise NoSuchPlugin(f"plugins: '{__name__}.{name}' does not exist. Write {__name__}.SafetyPlugin.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
