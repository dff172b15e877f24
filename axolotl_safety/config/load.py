"""A YAML as Axolotl reads it, for commands that only look.

Axolotl's own ``load_cfg`` empties ``debug.log`` in ``output_dir``, which is the training's, sets variables for trackers
and reports to its telemetry. None of that is a looker's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axolotl_safety.util.errors import ConfigError
from axolotl_safety.util.releases import PLUGIN, installed_plugins_load, names_us

from . import types
from .command_line import override


def validated_config(
    path: Path, capabilities: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> Any:
    """The config of a YAML after Axolotl's validation, which asks this machine for a GPU unless it is told of one.

    Args:
        path: the YAML.
        capabilities: of the GPU that is planned for.
        overrides: keys that the command line sets; ``parent__child`` for one in a block.

    Raises:
        ConfigError: the file cannot be read, does not list the plugin, or Axolotl does not accept it.
    """
    import yaml
    from axolotl.cli.config import gpu_capabilities, prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read as YAML: {error}") from error
    raw = raw if isinstance(raw, dict) else {}
    if not installed_plugins_load() and PLUGIN not in (raw.get("plugins") or []):
        raise ConfigError(f"{str(path)!r} does not list the plugin. Add\nplugins:\n  - {PLUGIN}")
    if not names_us(raw):
        raise ConfigError(
            f"{str(path)!r} has no `safety:` section, and no entry of datasets: has a type of this plugin "
            f"({', '.join(types())}), so there is nothing of ours in it."
        )
    cfg = DictDefault(raw)
    cfg.axolotl_config_path = str(path)
    override(cfg, overrides or {})
    prepare_plugins(cfg)
    found, environment = gpu_capabilities()
    try:
        return validate_config(cfg, capabilities=dict(capabilities or found), env_capabilities=environment)
    except ValueError as error:  # pydantic's too
        raise ConfigError(f"Axolotl does not accept {str(path)!r}: {error}") from error


def final_config(path: Path, overrides: Mapping[str, Any] | None = None) -> Any:
    """The config as training gets it on this machine: validated, defaults resolved, known to the plugin.

    Raises:
        ConfigError: as `validated_config`.
    """
    from axolotl.cli.config import plugin_set_cfg
    from axolotl.utils.config import normalize_config

    cfg = validated_config(path, overrides=overrides)
    normalize_config(cfg)
    plugin_set_cfg(cfg)
    return cfg
