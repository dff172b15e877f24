"""Keys of the YAML that were set on the command line: applied as Axolotl does, and found again in a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Which registering plugins change, ours too; and where the YAML is.
_NOT_COMPARED = ("--datasets", "--test-datasets", "--pretraining-dataset", "--axolotl-config-path")


def override(cfg: Any, options: Mapping[str, Any]) -> None:
    """Set keys of a raw config as ``axolotl.cli.config.load_cfg`` does: ``parent__child`` is a key in a block."""
    from axolotl.cli.config import _coerce_value

    strict, known = cfg.get("strict"), set(cfg)
    for name, value in options.items():
        parent, _, child = name.partition("__")
        if strict and parent not in known:
            continue
        if isinstance(value, str) and value[:1] in ("[", "{"):  # below a launcher, Axolotl reads these as well
            value = _read(value)
        if not child:
            cfg[parent] = _coerce_value(value, cfg.get(parent))
            continue
        if not isinstance(cfg.get(parent), dict):
            cfg[parent] = {}
        cfg[parent][child] = _coerce_value(value, cfg[parent].get(child))


def _read(value: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def command_line(cfg: Any) -> list[str]:
    """The options that make the YAML on the disk the raw config at hand, such as ``--base-model=B``.

    What a launcher hands on cannot be read back from the process's own arguments, and a config that is only an object
    has none; so the two are compared, for the keys that Axolotl has options for.
    """
    import yaml
    from axolotl.cli.config_options import AXOLOTL_CONFIG_CLI_OPTIONS

    path = cfg.get("axolotl_config_path")
    try:
        written = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError, yaml.YAMLError):
        return []
    if not isinstance(written, dict):
        return []
    found = []
    for names, parameter, _, _ in AXOLOTL_CONFIG_CLI_OPTIONS:
        if names[0] in _NOT_COMPARED:
            continue
        switches = names[0].split("/")
        now, before = (_value(where, names[0], parameter) for where in (cfg, written))
        if now == before and type(now) is type(before):
            continue
        if len(switches) == 2 and isinstance(now, bool):
            found.append(switches[0] if now else switches[1])
        elif len(switches) == 1:
            found.append(f"{switches[0]}={_written(now)}")
    return found


def _value(where: Any, name: str, parameter: str | None) -> Any:
    key = parameter or name.split("/")[0].removeprefix("--").replace("-", "_")
    parent, _, child = key.partition("__")
    value = where.get(parent)
    if child:
        value = value.get(child) if isinstance(value, dict) else None
    return value.to_dict() if hasattr(value, "to_dict") else value


def _written(value: Any) -> str:
    if value is None:
        return "null"
    return json.dumps(value, default=str) if isinstance(value, (list, dict)) else str(value)
