"""Loads a model with transformers and finds out what it can do."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from typing import Any

import torch
from attention import use_grouped_attention
from protocol import LoadError
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer


@dataclass(frozen=True)
class Loaded:
    """A model that is ready, and what was found out about it.

    Attributes:
        model: in eval mode.
        vocabulary: rows of the input embedding.
        max_positions: positions that the model knows, or None.
        growing_cache: every layer keeps all keys and values, so that rows may join and leave a running batch.
        droppable_rows: rows may leave a running batch.
    """

    model: nn.Module
    device: torch.device
    vocabulary: int
    max_positions: int | None
    growing_cache: bool
    droppable_rows: bool
    accepts: frozenset[str]

    def new_cache(self) -> Cache:
        """An empty cache with the layers that the model wants."""
        return DynamicCache(config=self.model.config)

    def forward(
        self, ids_BT: Tensor, mask_BS: Tensor, positions_BT: Tensor, cache: Cache | None, last_only: bool = True
    ) -> Any:
        """One pass. ``mask_BS`` covers what is cached too. With ``last_only`` the head sees the last column alone."""
        extra: dict[str, Any] = {}
        if "position_ids" in self.accepts:
            extra["position_ids"] = positions_BT
        if last_only and "logits_to_keep" in self.accepts:
            extra["logits_to_keep"] = 1
        if cache is not None:
            extra["past_key_values"] = cache
        return self.model(input_ids=ids_BT, attention_mask=mask_BS, use_cache=cache is not None, **extra)


def load(spec: dict[str, Any]) -> Loaded:
    """Loads the model that a spec (the fields of ``ModelSpec``) names.

    Raises:
        LoadError: it cannot be loaded; the message names the cause. Out of memory on a GPU is not caught here.
    """
    path, device = os.path.expanduser(spec["path"]), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if os.path.isabs(path) and not os.path.isdir(path):
        raise LoadError(f"{path}: no such folder", "Check the model's path, or give a hub id.")
    quantization = _quantization(spec.get("quantization"), device)
    # Straight onto the GPU, without a copy of the whole model in main memory; a CPU needs no dispatching.
    placement = {"device_map": {"": device}} if device.type != "cpu" or quantization else {}
    if device.type == "cpu":
        use_grouped_attention()
    options: dict[str, Any] = {
        "revision": spec.get("revision"),
        "dtype": _dtype(spec.get("dtype") or "auto", device),
        "trust_remote_code": bool(spec.get("trust_remote_code")),
        **placement,
        **quantization,
    }
    try:
        try:
            model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="sdpa", **options)
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", **options)
    except torch.OutOfMemoryError:
        raise
    except MemoryError as error:
        raise LoadError(f"{path}: out of memory ({error})", "Use a smaller model or more memory.") from error
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, safetensors' own ...
        hint = "Check the path or id, the revision, and that the files are complete (a gated model needs a token)."
        raise LoadError(f"{path}: {type(error).__name__}: {error}", hint) from error
    if spec.get("adapter"):
        stored = getattr(model.config, "quantization_config", None)
        model = _with_adapter(model, spec["adapter"], merge=not quantization and not stored)
    model.eval()
    return inspect_model(model, device)


def _with_adapter(model: nn.Module, folder: str, merge: bool) -> nn.Module:
    """The model with an adapter in effect.

    Merged, it is as fast as the base alone. Quantised weights would be rounded again by that (peft issue 1043), so
    there it stays beside them.

    Raises:
        LoadError: it cannot be loaded onto this base.
    """
    try:
        from peft import PeftModel

        rows = _trained_vocabulary(model, folder)
        if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
            # As training did; new rows that the adapter lacks are the mean of the old ones, as they were there.
            model.resize_token_embeddings(rows)
        ends = _ends(model)
        adapted = PeftModel.from_pretrained(model, folder)
        # A LoRA on one end of tied weights leaves the other as it was; merged, it would change both.
        lora_on_an_end = any(id(getattr(module, "base_layer", None)) in ends for module in adapted.modules())
        merge = merge and not (lora_on_an_end and _tied(model))
        return adapted.merge_and_unload() if merge else adapted.get_base_model()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # peft raises ImportError, ValueError, RuntimeError, KeyError ...
        hint = "Check that it was trained on this base_model, or merge it first (axolotl merge-lora)."
        raise LoadError(f"adapter {folder}: {type(error).__name__}: {error}", hint) from error


def _ends(model: nn.Module) -> set[int]:
    """Embedding and head, by identity."""
    return {id(end) for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None}


def _tied(model: nn.Module) -> bool:
    return bool(getattr(model.config.get_text_config(decoder=True), "tie_word_embeddings", False))


def _trained_vocabulary(model: nn.Module, folder: str) -> int | None:
    """Rows of the embedding that an adapter was trained with, None where it brings neither embedding nor head.

    Training may have made room for new tokens (``resize_token_embeddings``), and peft then saves both whole. A LoRA on
    one of them has the vocabulary as the outer side of its matrix.
    """
    ends = _ends(model)
    names = {name for name, module in model.named_modules() if id(module) in ends}
    with safe_open(os.path.join(folder, "adapter_model.safetensors"), framework="pt") as file:
        for key in file.keys():
            name, _, what = key.removeprefix("base_model.model.").rpartition(".")
            if what == "weight":
                layer, _, part = name.rpartition(".")
                if name in names or (layer in names and part in ("base_layer", "lora_B")):
                    return file.get_slice(key).get_shape()[0]
            elif name in names and what == "lora_embedding_A":
                return file.get_slice(key).get_shape()[1]
    return None


def inspect_model(model: nn.Module, device: torch.device) -> Loaded:
    """Runs one token through the model and looks at the cache it leaves.

    Raises:
        LoadError: the model keeps its state in a way of its own.
    """
    config = model.config.get_text_config(decoder=True)
    accepts = frozenset(inspect.signature(model.forward).parameters)
    loaded = Loaded(
        model=model,
        device=device,
        vocabulary=model.get_input_embeddings().weight.shape[0],
        max_positions=getattr(config, "max_position_embeddings", None),
        growing_cache=False,
        droppable_rows=False,
        accepts=accepts,
    )
    one_BT = torch.ones((1, 1), dtype=torch.long, device=device)
    with torch.no_grad():
        output = loaded.forward(one_BT * 0, one_BT, one_BT * 0, loaded.new_cache())
    cache = getattr(output, "past_key_values", None)
    if not isinstance(cache, Cache):
        kind = type(model).__name__
        raise LoadError(f"{kind} does not use transformers' common cache", "Use another model or another engine.")
    layers = getattr(cache, "layers", [object()])
    kinds = {type(layer) for layer in layers if getattr(layer, "is_initialized", True)}
    return Loaded(
        **{
            **loaded.__dict__,
            "growing_cache": kinds == {DynamicLayer} and "position_ids" in accepts,
            "droppable_rows": kinds <= {DynamicLayer, DynamicSlidingWindowLayer},
        }
    )


def _dtype(name: str, device: torch.device) -> torch.dtype | str:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise LoadError(f"dtype {name!r} is not known", f"Use one of auto, {', '.join(known)}.")
    return known[name]


def _quantization(scheme: str | None, device: torch.device) -> dict[str, Any]:
    if scheme is None:
        return {}
    if scheme != "bitsandbytes":
        raise LoadError(f"quantization {scheme!r} is not known to the transformers engine", "Use bitsandbytes or none.")
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute, bnb_4bit_use_double_quant=True
        )
    }
