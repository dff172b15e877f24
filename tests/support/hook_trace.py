"""A second plugin for a YAML: notes every call of a hook of ours in the file that HOOK_TRACE names."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from axolotl.integrations.base import BasePlugin

from axolotl_safety.plugin import SafetyPlugin


def implemented() -> list[str]:
    """The hooks that our plugin has a method for."""
    return [name for name, value in vars(SafetyPlugin).items() if callable(value) and not name.startswith("_")]


def _noting(name: str, method: Callable) -> Callable:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with open(os.environ["HOOK_TRACE"], "a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        return method(*args, **kwargs)

    return call


class Tracer(BasePlugin):
    """Listed before ours."""

    def __init__(self) -> None:
        """Wrap our hooks."""
        super().__init__()
        for name in implemented():
            setattr(SafetyPlugin, name, _noting(name, vars(SafetyPlugin)[name]))
