"""What differs between the releases of Axolotl that the package runs with, and whether a YAML asks for the plugin."""

from __future__ import annotations

from typing import Any

from .version import installed

PLUGIN = "axolotl_safety.SafetyPlugin"
PREFIX = "axolotl_safety."
SECTION = "safety"

# vLLM that one environment can hold beside each release: resolved from the packages' metadata, 2026-11-28.
# 0.20: torch >= 2.13 leaves out vLLM before 0.27, mistral-common 1.11.5 the rest. 0.21: 0.31 and 0.32 want an older
# transformers, 0.33 a newer pillow than trackio allows.
_VLLM_BESIDE = {"0.19": "vllm>=0.20,<0.24", "0.20": None, "0.21": "vllm==0.30.0"}


def vllm_beside() -> str:
    """One sentence: which vLLM the installed Axolotl's environment can hold."""
    release = ".".join(installed(["axolotl"]).get("axolotl", "").split(".")[:2])
    beside = _VLLM_BESIDE.get(release)
    if beside is None:
        return f"No vLLM is known to fit into one environment with Axolotl {release}"
    return f"Axolotl {release} can share an environment with {beside}"


def installed_plugins_load() -> bool:
    """Whether this Axolotl loads the plugin wherever it is installed, so that no YAML has to list it.

    From 0.21 on, Axolotl registers every entry point of the group ``axolotl.plugins``
    (``axolotl/integrations/base.py``, `get_builtin_plugins`).
    """
    from axolotl.integrations import base

    return PLUGIN in getattr(base, "get_builtin_plugins", tuple)()


def names_us(cfg: Any) -> bool:
    """Whether a YAML asks for the plugin: by listing it, by its section, by a type or by a reward function of ours.

    Where installed plugins load, every hook runs for every YAML on the machine, and one that does not name the plugin
    must train as if it were not installed.

    Args:
        cfg: The raw or the validated config.
    """
    if cfg.get(SECTION) is not None or any(str(name).startswith(PREFIX[:-1]) for name in cfg.get("plugins") or []):
        return True
    if any(is_ours(entry) for key in _DATASETS for entry in _listed(cfg.get(key))):
        return True
    return any(str(name).startswith(PREFIX) for name in _listed(key_of(cfg.get("trl") or {}, "reward_funcs")))


def is_ours(entry: Any) -> bool:
    """Whether a dataset entry has a type of this plugin, or one that is written like it."""
    return str(key_of(entry, "type") or "").startswith(PREFIX)


def key_of(entry: Any, key: str) -> Any:
    """A key of a dataset entry or a block, as Axolotl hands it: a mapping, or an object after validation."""
    return entry.get(key) if isinstance(entry, dict) else getattr(entry, key, None)


_DATASETS = ("datasets", "test_datasets", "pretraining_dataset")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
