"""Sources of the frozen model's predictions: the adapter switched off, a frozen copy, or a stored table."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_safety.util.errors import ConfigError

from .chunks import Head
from .loss import forward_kl, forward_kl_top_k, top_k_logprobs
from .model import (
    adapter_off,
    causal_model,
    check_adapter,
    check_logits,
    evaluating,
    find_heads,
    hidden_states,
    is_peft,
)
from .top_k import TopKTable

Divergence = Callable[[Tensor, Head], Tensor]  # the policy's hidden_ND and head to a mean over N


class FrozenModel:
    """The starting model itself: the policy without its adapter, or a copy of the policy as it was.

    Raises:
        ConfigError: ``adapter`` without an adapter.
        ModelError: the model without its adapter is not the model at the start.
    """

    def __init__(self, model: nn.Module, wanted: str, chunk_bytes: int):
        """Copy the model where there is no adapter to switch off."""
        self.name = ("adapter" if is_peft(model) else "copy") if wanted == "auto" else wanted
        self._chunk_bytes = chunk_bytes
        self._checked = False
        self._twin = copy.deepcopy(model).requires_grad_(False).eval() if self.name == "copy" else None
        if hasattr(self._twin, "gradient_checkpointing_disable"):
            self._twin.gradient_checkpointing_disable()
        if self.name == "adapter":
            if not is_peft(model):
                raise ConfigError("safety.kl.reference: adapter, but there is no adapter; set auto, copy or top_k.")
            check_adapter(model)

    def look(self, policy: nn.Module, inputs: dict[str, Tensor], benign_BT: Tensor, index_BT: Any) -> Divergence:
        """One pass over the batch rows that hold benign tokens: no gradient, no dropout, no checkpointing.

        Args:
            policy: the model in training, without DDP around it.
            inputs: of the whole batch.
            benign_BT: positions that predict a benign token, the last one left out (T - 1).
            index_BT: not used here.

        Returns:
            The divergence of the policy at these positions.
        """
        model = self._twin if self._twin is not None else policy
        device = inputs["input_ids"].device
        if self._twin is not None and next(self._twin.parameters()).device != device:
            self._twin.to(device)
        rows_B = benign_BT.any(1)
        part = {
            key: value[rows_B] if torch.is_tensor(value) and value.shape[:1] == rows_B.shape else value
            for key, value in inputs.items()
        }
        off = adapter_off(policy) if self.name == "adapter" else contextlib.nullcontext()
        with torch.no_grad(), evaluating(model), off:
            hidden_BTD, logits_B1V = hidden_states(model, causal_model(model), part)
        policy_head, original_head = find_heads(model)
        head = original_head if self.name == "adapter" else policy_head
        if not self._checked:
            check_logits(hidden_BTD, logits_B1V, head, f"the reference ({self.name})")
            self._checked = True
        hidden_ND = hidden_BTD[:, :-1][benign_BT[rows_B]]
        return lambda student_ND, student_head: forward_kl(student_ND, hidden_ND, student_head, head, self._chunk_bytes)


class Stored:
    """The starting model's likeliest tokens, looked up."""

    name = "top_k"

    def __init__(self, table: TopKTable, chunk_bytes: int):
        """Take a finished table."""
        self._table = table
        self._chunk_bytes = chunk_bytes

    def look(self, policy: nn.Module, inputs: dict[str, Tensor], benign_BT: Tensor, index_BT: Any) -> Divergence:
        """The entries of the batch's benign tokens; arguments as for `FrozenModel.look`.

        Args:
            index_BT: each predicted token's row in the table (T - 1), -1 where it is not benign.
        """
        entries = self._table.rows(index_BT[benign_BT])
        return lambda student_ND, head: forward_kl_top_k(student_ND, *entries, head, self._chunk_bytes)


@torch.no_grad()
def top_k_entries(model: nn.Module, ids_1T: Tensor, positions_N: Tensor, k: int, chunk_bytes: int) -> Any:
    """Top-k entries of an untouched model that predict the tokens at some positions of one row."""
    ids_1T = ids_1T.to(next(model.parameters()).device)
    with evaluating(model):
        inputs = {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}
        hidden_1TD, logits_11V = hidden_states(model, causal_model(model), inputs)
    head, _ = find_heads(model)
    check_logits(hidden_1TD, logits_11V, head, "the reference (top_k)")
    return top_k_logprobs(hidden_1TD[0, positions_N.to(ids_1T.device) - 1], head, k, chunk_bytes)
