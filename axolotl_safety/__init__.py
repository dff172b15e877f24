"""axolotl-safety: DGR and ThinkSafe as a data stage of Axolotl.

Importing this package imports nothing but the standard library: Axolotl skips a plugin whose import
fails and trains on without it, so the import must not be able to fail for want of something heavy.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["SafetyPlugin", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "SafetyPlugin":
        from .plugin import SafetyPlugin

        return SafetyPlugin
    if name == "grpo":  # Axolotl resolves types under `rl:` as functions of a top-level package
        from .grpo_rows import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
