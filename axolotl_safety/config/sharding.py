"""Which YAMLs shard the model, so that nothing beside the trainer can use its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from axolotl_safety.util.errors import ConfigError

_PARALLEL = ("context_parallel_size", "sequence_parallel_degree", "tensor_parallel_size", "expert_parallel_size")


def refuse_sharding(cfg: Any, section: str, way_out: str) -> None:
    """Refuse parallelism within a model; FSDP's keys are refused with the caller's others.

    Args:
        cfg: the raw YAML.
        section: what does not work with it, as the user wrote it.
        way_out: the end of the message.

    Raises:
        ConfigError: naming the key, the value seen and the way out.
    """
    degrees = {key: cfg.get(key) for key in _PARALLEL}
    degrees["context_parallel.size"] = (cfg.get("context_parallel") or {}).get("size")
    for key, degree in degrees.items():
        if (degree or 1) > 1:
            raise ConfigError(f"{section} does not work with {key}: {degree!r}. {way_out}")
    if _zero_stage(cfg.get("deepspeed")) == 3:
        raise ConfigError(f"{section} does not work with DeepSpeed ZeRO-3 ({cfg.get('deepspeed')!r}). {way_out}")


def _zero_stage(deepspeed: Any) -> int | None:
    """The ZeRO stage of Axolotl's ``deepspeed:`` (a mapping, or the path of a JSON file), None if it cannot be read."""
    if isinstance(deepspeed, (str, Path)) and deepspeed:
        try:
            deepspeed = json.loads(Path(deepspeed).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 3 if "zero3" in Path(deepspeed).name.lower() else None  # Axolotl says what is wrong with the file
    if not hasattr(deepspeed, "get"):
        return None
    return (deepspeed.get("zero_optimization") or {}).get("stage")
