"""Pretraining from scratch on a CPU: Muon on the matrices, AdamW on the rest."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

IGNORED = -100
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class Example:
    """Token ids with a weight per token's loss (0 leaves it out)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; matrices of one shape are handled in one batch."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        """Take matrices only."""
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Apply one update."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                gradients = torch.stack([parameter.grad for parameter in parameters])
                state = self.state[parameters[0]]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(gradients)
                state["momentum"].lerp_(gradients, 1 - group["momentum"])
                update = orthogonalise(gradients.lerp(state["momentum"], group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, change in zip(parameters, update, strict=True):
                    parameter.add_(change, alpha=-scale)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Push the singular values of a batch of matrices towards one (five Newton-Schulz steps)."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def optimizers(model: nn.Module, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [Muon(matrices, muon_lr), torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)]


def length_batches(
    examples: Iterator[Example], tokens: int, rng: random.Random, pool: int = 3000
) -> Iterator[list[Example]]:
    """Endless batches of similar lengths with at most ``tokens`` padded tokens each."""
    while True:
        drawn = sorted((next(examples) for _ in range(pool)), key=lambda item: len(item.ids))
        batches: list[list[Example]] = [[]]
        for example in drawn:
            if (len(batches[-1]) + 1) * len(example.ids) > tokens:
                batches.append([])
            batches[-1].append(example)
        rng.shuffle(batches)
        yield from batches


def weighted_loss(model: nn.Module, batch: list[Example]) -> Tensor:
    """Cross-entropy averaged with the examples' weights; padding stands on the right, so a causal model ignores it."""
    width = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    weights = torch.zeros(len(batch), width)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        weights[row, : len(example.ids)] = torch.tensor(example.weights)
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    kept = weights[:, 1:] > 0
    losses = functional.cross_entropy(model.lm_head(hidden[kept]), ids[:, 1:][kept], reduction="none")
    kept_weights = weights[:, 1:][kept]
    return (losses * kept_weights).sum() / kept_weights.sum()


def train(
    model: nn.Module,
    losses: Iterator[Tensor],
    steps: int,
    muon_lr: float = 0.02,
    adam_lr: float = 3e-3,
    decay_from: float = 0.4,
    log_every: int = 100,
) -> list[float]:
    """Run ``steps`` updates: 20 warm-up steps, a constant rate, then linear decay to zero.

    Args:
        model: trained in place.
        losses: yields the loss of the next batch under the current weights.
        steps: number of updates.
        muon_lr: peak rate of the matrices.
        adam_lr: peak rate of the rest.
        decay_from: share of the steps after which the rate falls.
        log_every: steps between printed lines.

    Returns:
        The loss of each step.
    """
    parts = optimizers(model, muon_lr, adam_lr)
    peaks = [part.param_groups[0]["lr"] for part in parts]
    history: list[float] = []
    started = time.process_time()
    model.train()
    for step in range(steps):
        factor = min(1.0, (step + 1) / 20, (steps - step) / (steps * (1 - decay_from)))
        loss = next(losses)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part, peak in zip(parts, peaks, strict=True):
            part.param_groups[0]["lr"] = peak * factor
            part.step()
            part.zero_grad(set_to_none=True)
        history.append(loss.item())
        if (step + 1) % log_every == 0:
            recent = sum(history[-log_every:]) / log_every
            print(
                f"  step {step + 1}/{steps}: loss {recent:.3f}, {time.process_time() - started:.0f} CPU s", flush=True
            )
    model.eval()
    return history
