"""Parts of a model for the KL trainer: its last hidden states, its output head, and proof that they fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_safety.util.errors import ModelError

from .chunks import Head

# Adapters whose start leaves the base model's weights as they are and adds nothing to its output.
_NEUTRAL_STARTS = (True, "gaussian", "eva", "orthogonal")


def is_peft(model: nn.Module) -> bool:
    """Whether there is an adapter that can be switched off."""
    return hasattr(model, "disable_adapter") and hasattr(model, "get_base_model")


def causal_model(model: nn.Module) -> Any:
    """The model below an adapter."""
    return model.get_base_model() if is_peft(model) else model


def find_heads(model: nn.Module) -> tuple[Head, Head]:
    """The policy's head and the one it has with its adapter off; they differ for ``modules_to_save: [lm_head]``.

    Raises:
        ModelError: a head that is more than one matrix, or scaled in a way that cannot be read from the config.
    """
    base = causal_model(model)
    module = base.get_output_embeddings()
    saved = getattr(module, "modules_to_save", None)
    policy, original = (saved[module.active_adapter], module.original_module) if saved else (module, module)
    for head in (policy, original):
        if not isinstance(head, nn.Linear) or not head.weight.is_floating_point():
            raise ModelError(
                f"safety.kl: the output head of {type(base).__name__} is a {type(head).__name__}, and the loss needs "
                "one floating-point matrix. Leave the head out of lora_target_modules and of the quantisation; to "
                "train it, name it in lora_modules_to_save."
            )
        if head.bias is not None:
            raise ModelError(
                f"safety.kl: the output head of {type(base).__name__} has a bias, which the loss does not "
                "know; train this model without safety.kl."
            )
    scale, soft_cap = logit_transform(base.config)
    return Head(policy.weight, scale, soft_cap), Head(original.weight, scale, soft_cap)


def logit_transform(config: Any) -> tuple[float, float | None]:
    """Scale and soft cap of the logits, by the names that transformers' families give them.

    Cohere multiplies by ``logit_scale``, Falcon-H1 by ``lm_head_multiplier``, Granite divides by ``logits_scaling``;
    Gemma caps at ``final_logit_softcapping``. `check_logits` catches what is missing here.

    Raises:
        ModelError: a value that is no number.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = 1.0
    for name, power in (("logit_scale", 1), ("lm_head_multiplier", 1), ("logits_scaling", -1)):
        value = getattr(text, name, None)
        if value is None:
            continue
        if not isinstance(value, (int, float)):
            raise ModelError(
                f"safety.kl: the model's config has {name}: {value!r}, which is no number; correct it, or "
                "train without safety.kl."
            )
        scale *= float(value) ** power
    cap = getattr(text, "final_logit_softcapping", None)
    return scale, float(cap) if cap else None


def hidden_states(model: nn.Module, inner: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """One pass of a model: the decoder's last hidden states, and the logits of the last position only.

    The wrapped model is called, not the decoder: DDP's and accelerate's own hooks sit there. A hook that lives as long
    as the call takes the hidden states, which `output_hidden_states` would also give, with those of every layer.

    Args:
        model: as the trainer holds it, wrapped or not.
        inner: the model below every wrapper, as `causal_model` gives it.
        inputs: without labels, so that no loss and no other logits are computed.

    Returns:
        ``hidden_BTD`` after the final norm, and ``logits_B1V``.

    Raises:
        ModelError: the decoder did not run exactly once, or logits of other positions came back.
    """
    seen: list[Tensor] = []
    hook = inner.get_decoder().register_forward_hook(lambda module, args, output: seen.append(output[0]))
    try:
        outputs = model(**inputs, logits_to_keep=1, use_cache=False)
    finally:
        hook.remove()
    logits = outputs.logits
    if len(seen) != 1 or logits is None or logits.shape[1] != 1 or seen[0].shape[:2] != inputs["input_ids"].shape:
        raise ModelError(
            f"safety.kl: {type(inner).__name__} does not give its hidden states and last logits in one pass ("
            f"{len(seen)} decoder passes, logits of shape {None if logits is None else tuple(logits.shape)}); this "
            "model cannot be trained with the KL."
        )
    return seen[0], logits


def check_logits(hidden_BTD: Tensor, logits_B1V: Tensor, head: Head, name: str) -> None:
    """Compare head(hidden states) with the model's own logits at the last position.

    Raises:
        ModelError: they differ by more than the number format explains.
    """
    last_BD = hidden_BTD[:, -1].detach()
    rounded = {last_BD.dtype, head.weight_VD.dtype, logits_B1V.dtype} & {torch.bfloat16, torch.float16}
    rounded |= {torch.bfloat16} if torch.is_autocast_enabled(last_BD.device.type) else set()
    ours_BV = torch.empty(len(last_BD), len(head.weight_VD), dtype=torch.float32, device=last_BD.device)
    if head.weight_VD.dtype == torch.float64:
        ours_BV = ours_BV.double()
    with torch.no_grad(), torch.autocast(last_BD.device.type, enabled=False):
        head.logits(last_BD, ours_BV, [slice(0, len(head.weight_VD))])
    theirs_BV = logits_B1V[:, -1].detach().to(ours_BV)
    gap = (ours_BV - theirs_BV).abs().max().item()
    allowed = (0.03 if rounded else 1e-3) * max(theirs_BV.abs().max().item(), 1e-3)
    if not gap <= allowed:
        raise ModelError(
            f"safety.kl: the logits of {name} are not its output head times its last hidden states (largest difference "
            f"{gap:.3g}, allowed {allowed:.3g}), so the loss would be of another model. This family scales, caps or "
            "masks its logits in a way not known here; train it without safety.kl."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout, input noise and gradient checkpointing off, and every module's mode back afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """The model without its adapter. PEFT makes all adapter weights trainable on the way back; frozen ones stay so."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def check_adapter(model: nn.Module) -> None:
    """Refuse adapters whose model without them is not the model that training starts from.

    Raises:
        ModelError: naming what stands in the way.
    """
    way_out = "Set safety.kl.reference: copy to keep a whole frozen copy instead."
    for config in model.peft_config.values():
        start = getattr(config, "init_lora_weights", True)
        start = start.lower() if isinstance(start, str) else start
        if start not in _NEUTRAL_STARTS:
            raise ModelError(
                f"safety.kl: adapters that start as {start!r} change the weights below them, so the model without its "
                f"adapter is not the model that training starts from. {way_out}"
            )
        if getattr(config, "bias", "none") != "none":
            raise ModelError(
                f"safety.kl: bias: {config.bias!r} trains biases that stay when the adapter is off. {way_out}"
            )
    prefix = getattr(model.base_model, "prefix", "lora_")
    stray = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not any(mark in name for mark in (prefix, "modules_to_save", "trainable_tokens"))
    ]
    if stray:
        raise ModelError(
            f"safety.kl: {stray[0]!r} is trained besides the adapter ({len(stray)} such parameters) and stays changed "
            f"when the adapter is off. {way_out}"
        )
