"""Fine-tuning of the lab's base in one process, on the token ids that the data stage made: for searches of settings.

The rate is constant after five warm-up steps, so that each checkpoint is a run that could have ended there.
Everything else is what the lab's YAMLs say: AdamW without weight decay, batches of 16, gradients clipped at 1, loss on
the response alone, averaged over the tokens of a batch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from labkit.training import Example, weighted_loss
from torch import nn

BATCH = 16
WARMUP = 5
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """What is trained.

    Attributes:
        rank: of the LoRA adapter, None for full fine-tuning.
        modules: the linear layers that get one.
        rates: learning rates that a search tries.
    """

    rank: int | None
    modules: tuple[str, ...]
    rates: tuple[float, ...]

    @property
    def axolotl(self) -> dict[str, Any]:
        """The same in Axolotl's keys."""
        if self.rank is None:
            return {"adapter": None}
        linear = {"lora_target_linear": False, "lora_target_modules": list(self.modules)}
        return {"adapter": "lora", "lora_r": self.rank, "lora_alpha": 2 * self.rank} | linear


SHAPES = {
    "r16": Shape(16, LINEARS, (5e-4, 1e-3, 2e-3, 4e-3)),
    "r1": Shape(1, LINEARS, (1.5e-3, 3e-3, 6e-3, 1.2e-2)),
    "r1_up": Shape(1, ("up_proj",), (3e-3, 6e-3, 1.2e-2, 2.4e-2)),
    "full": Shape(None, (), (1e-4, 2e-4, 4e-4, 8e-4)),
}


@dataclass(frozen=True)
class Setting:
    """A shape, by its name, and a learning rate."""

    shape: str
    rate: float

    def __str__(self) -> str:
        """Short name, as in ``r16 at 0.001``."""
        return f"{self.shape} at {self.rate:g}"


@dataclass(frozen=True)
class Row:
    """Token ids that one row is trained on, and which half it belongs to; of a recovery row a response has begun."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    harmful: bool
    begun: bool = False


def loss_of(model: nn.Module, rows: Sequence[Row]) -> torch.Tensor:
    """Cross-entropy per response token."""
    return weighted_loss(
        model,
        [Example(row.prompt + row.response, (0.0,) * len(row.prompt) + (1.0,) * len(row.response)) for row in rows],
    )


def batches(rows: Sequence[Row], seed: int) -> Iterator[list[Row]]:
    """Endless batches, epoch by epoch in new orders."""
    rng, waiting = random.Random(seed), []
    while True:
        while len(waiting) < BATCH:
            waiting += rng.sample(rows, len(rows))
        yield waiting[:BATCH]
        waiting = waiting[BATCH:]


class Tuning:
    """A model on its way: ``advance`` trains it, ``merged`` lends it for generation."""

    def __init__(self, base: nn.Module, rows: Sequence[Row], setting: Setting, seed: int) -> None:
        """Take a freshly loaded base, which is changed in place.

        Args:
            base: a causal language model.
            rows: what it is trained on.
            setting: what of it is trained, and how fast.
            seed: of the adapter's weights and of the order.
        """
        torch.manual_seed(seed)
        shape = SHAPES[setting.shape]
        self._adapted: Any = None
        if shape.rank is None:
            base.requires_grad_(True)
        else:
            from peft import LoraConfig, get_peft_model

            modules = list(shape.modules)
            lora = LoraConfig(r=shape.rank, lora_alpha=2 * shape.rank, target_modules=modules, task_type="CAUSAL_LM")
            self._adapted = get_peft_model(base, lora)
        self._model = base
        self._weights = [weight for weight in base.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.AdamW(self._weights, lr=setting.rate, weight_decay=0.0)
        self._warmup = torch.optim.lr_scheduler.LinearLR(self._optimizer, 1 / WARMUP, 1.0, WARMUP)
        self._batches = batches(rows, seed)

    def advance(self, steps: int) -> None:
        """Train for so many steps."""
        self._model.train()
        for _ in range(steps):
            loss_of(self._model, next(self._batches)).backward()
            nn.utils.clip_grad_norm_(self._weights, 1.0)
            self._optimizer.step()
            self._warmup.step()
            self._optimizer.zero_grad(set_to_none=True)

    def finished(self) -> nn.Module:
        """The trained model by itself."""
        self._model.eval()
        return self._model if self._adapted is None else self._adapted.merge_and_unload()

    @contextmanager
    def merged(self) -> Iterator[nn.Module]:
        """The model as it stands, for generation."""
        self._model.eval()
        if self._adapted is not None:
            self._adapted.merge_adapter()
        try:
            yield self._model
        finally:
            if self._adapted is not None:
                self._adapted.unmerge_adapter()
