"""Pretend, for tests of GRPO's parts, that Axolotl runs a config in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from axolotl.integrations.base import PluginManager
from axolotl.utils.dict import DictDefault

PLUGIN = "axolotl_safety.SafetyPlugin"


def leave_nothing_behind() -> Iterator[None]:
    """Body of a fixture: Axolotl's plugin manager, one per process, is empty before and after."""
    manager = PluginManager.get_instance()
    manager.plugins.clear()
    manager.cfg = None
    yield
    manager.plugins.clear()
    manager.cfg = None


def pretend_run(model: Path, guard: Path | str = "builtin", **changes: Any) -> DictDefault:
    """Put a config where Axolotl would have put it, and give it back."""
    base = {"base_model": str(model), "tokenizer_config": str(model), "tokenizer_use_fast": True, "sequence_len": 512}
    cfg = DictDefault(base | changes)
    cfg["safety"] = DictDefault({"guard": [{"model": str(guard), "family": "auto"}], "work_dir": "/nowhere"})
    manager = PluginManager.get_instance()
    manager.plugins[PLUGIN] = object()
    manager.cfg = cfg
    return cfg
