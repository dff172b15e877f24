"""Checks of the raw YAML against ``safety.kl``, before anything is loaded."""

from __future__ import annotations

from typing import Any

from axolotl_safety.util.errors import ConfigError

from . import KLConfig
from .sharding import refuse_sharding

_ALONE = "Leave it out, or train without safety.kl."
_SHARDED = (
    "The output head is sharded then, and the loss multiplies it outside the model's forward pass. Use DDP or "
    "DeepSpeed ZeRO-1/2 (QLoRA fits more on each card), or train without safety.kl."
)
# Keys that change the loss, the trainer or the batch in a way the KL trainer does not follow.
_REFUSED = {
    "rl": "The KL is a supervised loss, and rl has trainers of its own. Remove safety.kl or rl.",
    "reward_model": _ALONE,
    "process_reward_model": _ALONE,
    "trainer_cls": "The KL needs its own trainer class. " + _ALONE,
    "use_eaft": "It is another loss. " + _ALONE,
    "use_dft": "It is another loss. " + _ALONE,
    "pretraining_dataset": "Its rows have no benign part. " + _ALONE,
    "streaming": _ALONE,
    "processor_type": "Batches of images are not supported. " + _ALONE,
    "batch_flattening": "Set batch_flattening: false, or use sample_packing.",
    "torch_compile": "The compiled model hides its hidden states. Set torch_compile: false.",
    "fsdp": _SHARDED,
    "fsdp_config": _SHARDED,
}


def check_kl(cfg: Any, kl: KLConfig, ours: bool) -> None:
    """Refuse keys that cannot go with the KL.

    Raises:
        ConfigError: naming the key, the value seen and the way out.
    """
    if not ours:
        raise ConfigError(
            "safety.kl is set, and no entry of datasets: has a type of this plugin. Only such rows have a benign part; "
            "and without one, a missing package would go unnoticed. Add an entry of type axolotl_safety.thinksafe, "
            "axolotl_safety.dgr or axolotl_safety.vanilla."
        )
    for key, way_out in _REFUSED.items():
        if cfg.get(key) and cfg.get(key) != "auto":
            raise ConfigError(f"safety.kl does not work with {key}: {cfg.get(key)!r}. {way_out}")
    refuse_sharding(cfg, "safety.kl", _SHARDED)
    _check_reference(cfg, kl)


def _check_reference(cfg: Any, kl: KLConfig) -> None:
    adapter = cfg.get("adapter")
    if kl.reference == "adapter" and not adapter:
        raise ConfigError(
            "safety.kl.reference: adapter switches the adapter off, and no adapter: is set. Use auto, copy or top_k."
        )
    if not adapter or kl.reference not in ("auto", "adapter"):
        return
    way_out = "Set safety.kl.reference: copy to keep a whole frozen copy instead."
    if adapter not in ("lora", "qlora"):
        raise ConfigError(f"safety.kl: adapter: {adapter!r} is not known to leave the model below it alone. {way_out}")
    if cfg.get("relora"):
        raise ConfigError(f"safety.kl: relora merges the adapter into the model that is the reference. {way_out}")
    start = cfg.get("peft_init_lora_weights")
    if (cfg.get("peft") or {}).get("loftq_config"):
        start = "loftq"
    if isinstance(start, str) and start.lower() not in ("gaussian", "eva", "orthogonal", "true"):
        raise ConfigError(
            f"safety.kl: adapters that start as {start!r} change the weights below them, so the model without its "
            f"adapter is not the one that training starts from. {way_out}"
        )
