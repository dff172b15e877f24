"""Checks of the raw YAML against ``safety.stop``, before anything is loaded."""

from __future__ import annotations

from typing import Any

from axolotl_safety.util.errors import ConfigError

from .sharding import refuse_sharding

_SHARDED = (
    "The weights are sharded then, and no rank can decode by itself. Use DDP or DeepSpeed ZeRO-1/2 (QLoRA fits more "
    "on each card), or train without safety.stop."
)
_REFUSED = {
    "rl": (
        "Its trainer samples and is rewarded at every step already, and the data stage with its development prompts "
        "does not run. Remove safety.stop, and end it by max_steps."
    ),
    "load_best_model_at_end": (
        "It would put another checkpoint in the place of the one that passed. Remove one of the two."
    ),
    "early_stopping_patience": (
        "It ends training by the evaluation loss, and the best checkpoint by that loss would take the place of the one "
        "that passed. Remove one of the two."
    ),
    "fsdp": _SHARDED,
    "fsdp_config": _SHARDED,
}


def check_stop(cfg: Any, ours: bool) -> None:
    """Refuse keys that cannot go with ``safety.stop``.

    Raises:
        ConfigError: naming the key, the value seen and the way out.
    """
    for key, way_out in _REFUSED.items():
        if value := cfg.get(key):
            raise ConfigError(f"safety.stop does not work with {key}: {getattr(value, 'value', value)!r}. {way_out}")
    if not ours:
        raise ConfigError(
            "safety.stop is set, and no entry of datasets: has a type of this plugin. Without one, a missing package "
            "would go unnoticed. Add an entry of type axolotl_safety.thinksafe, axolotl_safety.dgr or "
            "axolotl_safety.vanilla."
        )
    refuse_sharding(cfg, "safety.stop", _SHARDED)
