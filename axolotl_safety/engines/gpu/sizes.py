"""Sizes of models: parameters, bytes of weights and of cached keys and values. Arithmetic; reads no weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from .stored import StoredWeights

# Four bits per parameter, one absmax byte per 64 of them, itself in blocks of 256 (QLoRA, arXiv 2305.14314, sec. 3:
# double quantisation costs 0.127 bits per parameter).
_NF4_BYTES = (4 + 0.127) / 8
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Matrix:
    """The matrices of one name, such as ``q_proj``: how many, and from how many values to how many."""

    name: str
    inputs: int
    outputs: int
    count: int


@dataclass(frozen=True)
class ModelSize:
    """What a model's configuration says about memory.

    Attributes:
        linear: parameters in the layers' matrices, which quantisation shrinks.
        other: all other parameters: embeddings, head, norms.
        vocabulary: rows of the head.
        kv_values_per_token: numbers that keys and values hold per token, over all layers.
        window: longest context in tokens, None where the configuration does not say.
        matrices: the layers' matrices by name and shape; a mixture's experts, which are no modules, are not among them.
        stored: what the checkpoint is quantised to already, None where it is not.
    """

    linear: int
    other: int
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_values_per_token: int
    window: int | None
    matrices: tuple[Matrix, ...] = ()
    stored: StoredWeights | None = None

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.linear + self.other

    def weight_bytes(self, dtype: str = "bfloat16", quantization: str | None = None) -> int:
        """Bytes that the weights take. A checkpoint that is quantised already is loaded as it is stored.

        Args:
            dtype: ``float32``, ``bfloat16`` or ``float16``; of what is not quantised.
            quantization: None, ``bitsandbytes`` (NF4, double quantisation) or ``fp8``.

        Raises:
            ValueError: a quantisation whose size is not known.
        """
        full = _BYTES[dtype]
        if self.stored is not None:
            return self.stored.file_bytes or int(self.linear * self.stored.bytes_per_weight + self.other * full)
        per_linear = {None: full, "bitsandbytes": _NF4_BYTES, "fp8": 1}
        if quantization not in per_linear:
            raise ValueError(f"quantization {quantization!r}: known are {', '.join(map(str, per_linear))}")
        return int(self.linear * per_linear[quantization] + self.other * full)

    def kv_bytes_per_token(self, dtype: str = "bfloat16") -> int:
        """Bytes that one token's keys and values take. Sliding windows are not deducted."""
        return self.kv_values_per_token * _BYTES[dtype]


def model_size(config: Any, stored: StoredWeights | None = None) -> ModelSize:
    """Sizes from a transformers configuration. The model is built on the meta device: no weight is read or made.

    Args:
        config: transformers' configuration of the model.
        stored: what its checkpoint is quantised to (`stored_weights`), if it is.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    own_head = {id(head.weight)} if head is not None else set()
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and id(module.weight) not in own_head
    }
    inner = {id(module.weight) for module in found.values()}
    shapes = Counter(
        (name.rpartition(".")[2], module.in_features, module.out_features) for name, module in found.items()
    )
    # Experts are three-dimensional parameters without a module of their own.
    linear = sum(p.numel() for p in model.parameters() if id(p) in inner or p.dim() == 3)
    total = sum(parameter.numel() for parameter in model.parameters())
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    heads = getattr(text, "num_attention_heads", None) or getattr(text, "n_head", 0)
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    hidden = getattr(text, "hidden_size", None) or getattr(text, "n_embd", 0)
    layers = getattr(text, "num_hidden_layers", None) or getattr(text, "n_layer", 0)
    head_dim = getattr(text, "head_dim", None) or (hidden // heads if heads else 0)
    return ModelSize(
        linear=linear,
        other=total - linear,
        vocabulary=int(getattr(text, "vocab_size", 0)),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_values_per_token=2 * layers * kv_heads * head_dim,
        window=getattr(text, "max_position_embeddings", None),
        matrices=tuple(Matrix(*shape, count) for shape, count in sorted(shapes.items())),
        stored=stored,
    )
