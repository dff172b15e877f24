"""A LoRA adapter on top of a loaded model."""

from __future__ import annotations

import torch
from protocol import LoadError
from torch import nn


def with_adapter(model: nn.Module, folder: str, merge: bool) -> nn.Module:
    """The model with an adapter in effect.

    Args:
        model: the base, loaded.
        folder: the adapter's, as training saved it.
        merge: add it to the weights, in their own precision: as fast as the base alone. Quantised weights would be
            rounded again by that (peft issue 1043), so there it stays beside them.

    Raises:
        LoadError: it cannot be loaded onto this base.
    """
    try:
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(model, folder)
        return adapted.merge_and_unload() if merge else adapted.get_base_model()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # peft raises ImportError, ValueError, RuntimeError, KeyError ...
        hint = "Check that it was trained on this base_model, or merge it first (axolotl merge-lora)."
        raise LoadError(f"adapter {folder}: {type(error).__name__}: {error}", hint) from error
