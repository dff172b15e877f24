"""Settings of the vLLM worker: its options, and each model's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.base import ModelSpec

from .gpus import Gpu
from .share import Need, cpu_cache_bytes, divide, group_size

DEFAULT_MAX_NUM_SEQS = 256
_UNKNOWN_WINDOW = 4096


def max_num_seqs(engine: EngineConfig) -> int:
    """Completions decoded at once."""
    return engine.max_num_seqs or DEFAULT_MAX_NUM_SEQS


def tensor_parallel_size(engine: EngineConfig, needs: Mapping[str, Need], card_bytes: int, cards: int) -> int:
    """Cards that hold one copy of the models together: what the user says, else the fewest that do well.

    Raises:
        ConfigError: a model does not fit, not even on all cards.
    """
    if engine.tensor_parallel_size is not None:
        return engine.tensor_parallel_size
    return group_size(needs, card_bytes, engine.gpu_memory_utilization, max_num_seqs(engine), cards)


def worker_options(engine: EngineConfig, needs: Mapping[str, Need], cards: Sequence[Gpu], group: int) -> dict[str, Any]:
    """The vLLM worker's options. Nothing in here changes what is sampled.

    Raises:
        ConfigError: a model does not fit.
    """
    sequences = max_num_seqs(engine)
    memory: dict[str, dict[str, Any]]
    if cards:
        total = min(card.total_bytes for card in cards)
        free = min(card.total_bytes - card.used_bytes for card in cards)
        shares = divide(needs, total, free, engine.gpu_memory_utilization, sequences, group)
        memory = {
            name: {"gpu_memory_utilization": int(1e4 * share.gpu_bytes / total) / 1e4, "alone": share.alone}
            for name, share in shares.items()
        }
    else:
        memory = {name: {"kv_cache_memory_bytes": cpu_cache_bytes(need)} for name, need in needs.items()}
    return {
        "max_num_seqs": sequences,
        "enforce_eager": engine.enforce_eager,
        "enable_prefix_caching": engine.enable_prefix_caching,
        "tensor_parallel_size": group,
        "memory": memory,
    }


def weight_dtype(spec: ModelSpec, config: Any, on_cpu: bool) -> str:
    """Of what is not quantised; ``auto`` is float32 on a CPU, else the checkpoint's own."""
    if spec.dtype != "auto":
        return spec.dtype
    own = str(getattr(config, "dtype", None) or "bfloat16").removeprefix("torch.")
    return "float32" if on_cpu else own if own in ("float32", "float16") else "bfloat16"


def read_needs(models: Mapping[str, ModelSpec], on_cpu: bool) -> dict[str, Need]:
    """Sizes of the models from their configurations; no weight is read."""
    from transformers import AutoConfig

    from .sizes import model_size
    from .stored import stored_weights

    needs = {}
    for name, spec in models.items():
        config = AutoConfig.from_pretrained(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
        size = model_size(config, stored_weights(spec.path, config, spec.revision))
        dtype = weight_dtype(spec, config, on_cpu)
        needs[name] = Need(
            weight_bytes=size.weight_bytes(dtype, spec.quantization),
            kv_bytes_per_token=size.kv_bytes_per_token(dtype),
            vocabulary=size.vocabulary,
            heads=size.heads,
            longest=spec.max_model_len or size.window or _UNKNOWN_WINDOW,
        )
    return needs
