"""The ``safety:`` section of a final Axolotl config, and the dataset entries that are ours."""

from __future__ import annotations

from typing import Any

from axolotl_safety.util.errors import ConfigError
from axolotl_safety.util.releases import PLUGIN

from . import METHODS, PREFIX, SafetyConfig, types


def section(cfg: Any) -> SafetyConfig:
    """The validated ``safety:`` section of a final Axolotl config."""
    raw = cfg.safety
    return SafetyConfig.model_validate(raw.to_dict() if hasattr(raw, "to_dict") else raw or {})


def our_entries(cfg: Any) -> dict[int, str]:
    """Index and method of the dataset entries that are ours.

    Raises:
        ConfigError: a type of ours that does not exist.
    """
    found = {}
    for index, entry in enumerate(cfg.datasets or []):
        if isinstance(entry.type, str) and entry.type.startswith(PREFIX):
            method = entry.type.removeprefix(PREFIX)
            if method not in METHODS:
                raise ConfigError(
                    f"datasets: type {entry.type!r} does not exist. Types of this plugin: {', '.join(types())}."
                )
            found[index] = method
    return found


def require_plugin(what: str) -> None:
    """Refuse to work without the plugin.

    Raises:
        ConfigError: the YAML does not list the plugin.
    """
    from axolotl.integrations.base import PluginManager

    if PLUGIN not in PluginManager.get_instance().plugins:
        raise ConfigError(f"{what} needs the plugin, and `plugins:` does not list it. Add:\nplugins:\n  - {PLUGIN}")
