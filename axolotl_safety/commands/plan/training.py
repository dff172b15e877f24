"""GPU memory of training: weights, gradients, optimizer, activations, logits. Per card, without sharding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from axolotl_safety.engines.gpu.sizes import Matrix, ModelSize

_CONTEXT_BYTES = 0.8e9  # CUDA context and the libraries' workspaces
_FRAGMENTATION = 1.05  # what the allocator cannot reuse
# Bytes per logit at the peak of the backward pass. Plain cross-entropy: the logits in bfloat16, their float32
# log-softmax, and the gradient in both types. `chunked_cross_entropy` makes all logits too, but their float32 gradient
# only by chunk.
_PLAIN_LOSS, _CHUNKED_LOSS = 12, 8
_FUSED_LOSS_BYTES = 0.5e9  # of a loss that makes the logits in pieces: Liger's, cut_cross_entropy, safety.kl

# Bytes per trained parameter beyond weight and gradient, by how many values the optimizer keeps per parameter and in
# how many bytes; None for the parameter's own type. Paged optimizers keep theirs in main memory when the card is full.
OPTIMIZERS: dict[str, tuple[int, float | None]] = {
    "adamw_torch": (2, None),
    "adamw_torch_fused": (2, None),
    "adamw_bnb_8bit": (2, 1),
    "adamw_8bit": (2, 1),
    "adamw_torch_8bit": (2, 1),
    "adamw_torch_4bit": (2, 0.5),
    "ao_adamw_8bit": (2, 1),
    "ao_adamw_4bit": (2, 0.5),
    "ao_adamw_fp8": (2, 1),
    "optimi_adamw": (2, None),
    "paged_adamw_32bit": (0, 0),
    "paged_adamw_8bit": (0, 0),
    "paged_lion_32bit": (0, 0),
    "paged_lion_8bit": (0, 0),
    "lion_32bit": (1, 4),
    "lion_8bit": (1, 1),
    "lion_pytorch": (1, None),
    "muon": (1, None),
    "adafactor": (0, 0),
    "sgd": (0, 0),
}


@dataclass(frozen=True)
class Training:
    """What decides the memory of a training run.

    Attributes:
        adapter: ``lora``, ``qlora`` or None for all parameters.
        quantization: of the base: None, ``bitsandbytes`` or ``int8``.
        targets: names of the matrices with an adapter; None for all of them.
        tokens: of one micro-batch: sequence_len x micro_batch_size.
        checkpointing: whether activations are recomputed.
        logit_bytes: of one logit at the peak; 0 for a loss that never holds all of them.
        copy: whether a frozen second copy of the model is held (KL without an adapter).
        dequantised: a checkpoint that is quantised already is not loaded so (gpt-oss, to train its experts).
        bytes_per_weight: of what is not quantised: 2, or 4 in float32.
    """

    adapter: str | None
    quantization: str | None
    rank: int
    targets: tuple[str, ...] | None
    optimizer: str
    tokens: int
    checkpointing: bool
    logit_bytes: int
    copy: bool = False
    dequantised: bool = False
    bytes_per_weight: int = 2


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one card, and how many parameters are trained."""

    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    other: int

    @property
    def total(self) -> int:
        """Of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.other


def training_memory(size: ModelSize, training: Training) -> TrainingMemory:
    """Add up a training run.

    Weights, gradients and optimizer are counted as in ZeRO (arXiv 1910.02054, sec. 3.1), with the types that Axolotl
    uses: adapters in float32; a full fine-tune in the type of the weights. Activations after Korthikanti et al. (arXiv
    2205.05198, sec. 4 and 5): with checkpointing, each layer's input and the inside of one layer.
    """
    size = replace(size, stored=None) if training.dequantised else size
    full = training.bytes_per_weight
    dtype = "bfloat16" if full == 2 else "float32"
    if training.quantization == "int8" and size.stored is None:
        weights = size.linear + size.other * full
    else:
        weights = size.weight_bytes(dtype, training.quantization)
    weights *= 2 if training.copy else 1
    adapted = [one for one in size.matrices if training.targets is None or one.name in training.targets]
    if training.adapter:
        trained, per_parameter = sum(one.count * training.rank * (one.inputs + one.outputs) for one in adapted), 4
        weights += trained * per_parameter
    else:
        adapted, trained, per_parameter = [], size.parameters, full
    # Of an unknown optimizer two float32 values per parameter are assumed.
    states, width = OPTIMIZERS.get(training.optimizer, (2, 4))
    optimizer = states * (per_parameter if width is None else width) * trained
    logits = training.logit_bytes * training.tokens * size.vocabulary or _FUSED_LOSS_BYTES
    activations = _activations(size, adapted, training)
    gradients = trained * per_parameter
    parts = weights + gradients + optimizer + activations + logits
    other = _CONTEXT_BYTES + (_FRAGMENTATION - 1) * parts
    return TrainingMemory(
        trained, int(weights), int(gradients), int(optimizer), int(activations), int(logits), int(other)
    )


def _activations(size: ModelSize, adapted: list[Matrix], training: Training) -> float:
    """Bytes of what the backward pass needs, for the tokens of one micro-batch."""
    layers = max(1, size.layers)
    passing = sum(one.count * (one.inputs + one.outputs) for one in size.matrices) / layers
    # PEFT computes an adapter in float32 and keeps its input so.
    casts = sum(one.count * one.inputs for one in adapted) / layers
    inside = 2 * passing + 4 * casts
    kept = 2 * size.hidden * layers + inside if training.checkpointing else inside * layers
    return training.tokens * kept


def from_axolotl(cfg: Mapping) -> Training:
    """Read an Axolotl config."""
    kl = cfg.get("safety", {}).get("kl") if cfg.get("safety") else None
    adapter = cfg.get("adapter")
    targets = cfg.get("lora_target_modules")
    if cfg.get("lora_target_linear") or not isinstance(targets, (list, tuple)):
        targets = None
    bits = "bitsandbytes" if cfg.get("load_in_4bit") else "int8" if cfg.get("load_in_8bit") else None
    fused = kl is not None or cfg.get("cut_cross_entropy") or cfg.get("liger_fused_linear_cross_entropy")
    logit_bytes = 0 if fused else _CHUNKED_LOSS if cfg.get("chunked_cross_entropy") else _PLAIN_LOSS
    reference = (kl or {}).get("reference") or "auto"
    return Training(
        adapter=adapter,
        quantization=bits,
        rank=int(cfg.get("lora_r") or 8),
        targets=tuple(str(name).rpartition(".")[2] for name in targets) if targets else None,
        optimizer=str(getattr(cfg.get("optimizer"), "value", cfg.get("optimizer") or "adamw_torch_fused")),
        tokens=int(cfg.get("sequence_len") or 512) * int(cfg.get("micro_batch_size") or 1),
        checkpointing=bool(cfg.get("gradient_checkpointing")),
        logit_bytes=logit_bytes,
        copy=kl is not None and (reference == "copy" or (reference == "auto" and not adapter)),
        dequantised=bool((cfg.get("model_quantization_config_kwargs") or {}).get("dequantize")),
        bytes_per_weight=2 if cfg.get("bf16") or cfg.get("fp16") or cfg.get("bfloat16") else 4,
    )
