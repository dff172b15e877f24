"""A LoRA training step, with cross-entropy as transformers' trainer computes it and with the KL of ``safety.kl``.

The loss is the very class that Axolotl's trainer is put around; Axolotl itself is not needed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .memory import OUT_OF_MEMORY, peak, release, start_peak, where_it_fits
from .shapes import Shape, random_model

if TYPE_CHECKING:
    from transformers import Trainer

STEPS = 4  # the first two are not timed: kernels are chosen, the optimizer's state is made
WARM = 2
# The defaults of `axolotl_safety.config.KLConfig`, which needs pydantic.
KL = {"mode": "replace", "weight": 1.0, "reference": "auto", "k": 64, "chunk_mb": 256}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Setup:
    """What is trained, on what. The defaults are those of the shipped recipes.

    Attributes:
        rows, tokens: of a batch; ``tokens`` is the length of a row. The second half of the batch's tokens is benign.
        dtype: of the weights; bfloat16 trains under autocast.
        with_kl: or cross-entropy on every token by transformers' own trainer.
    """

    shape: Shape
    device: str
    tokens: int
    rows: int = 1
    dtype: str = "bfloat16"
    with_kl: bool = True
    rank: int = 32
    targets: tuple[str, ...] = LINEARS
    checkpointing: bool = True


@dataclass
class Steps:
    """What was seen of each step: seconds, and bytes at its peak, weights included."""

    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)


def rows_of(setup: Setup) -> list[dict[str, Any]]:
    """The samples of one batch: random ids, all trained, the second half of them benign."""
    import torch

    make = torch.Generator().manual_seed(0)
    ids = torch.randint(0, setup.shape.vocabulary, (setup.rows, setup.tokens), generator=make)
    benign = (torch.arange(ids.numel()) >= ids.numel() // 2).long().reshape(ids.shape)
    columns = zip(ids.tolist(), benign.tolist(), strict=True)
    return [{"input_ids": row, "labels": list(row), "kl_mask": mask} for row, mask in columns]


def make_trainer(setup: Setup, folder: str, rows: list[dict[str, Any]], callbacks: list[Any] | None = None) -> Trainer:
    """A trainer of a LoRA model with random weights; ``rows`` is its dataset."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    torch.manual_seed(0)
    base = random_model(setup.shape, setup.device, setup.dtype)
    model = get_peft_model(base, LoraConfig(r=setup.rank, lora_alpha=16, target_modules=list(setup.targets)))
    if setup.checkpointing:
        model.enable_input_require_grads()
    args = TrainingArguments(
        output_dir=folder,
        report_to=[],
        use_cpu=setup.device == "cpu",
        bf16=setup.dtype == "bfloat16",
        gradient_checkpointing=setup.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if setup.checkpointing else None,
        per_device_train_batch_size=setup.rows,
        max_steps=STEPS,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )
    kind = _kl_trainer() if setup.with_kl else Trainer
    return kind(model=model, args=args, train_dataset=rows * STEPS, callbacks=callbacks)


def _kl_trainer() -> type[Trainer]:
    from axolotl_safety.methods.kl.step import ForwardKLLoss

    class KLTrainer(ForwardKLLoss):
        settings = SimpleNamespace(**KL)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.prepare_kl()

    return KLTrainer


def watcher(device: str, seen: Steps) -> Any:
    """A callback that notes time and peak of each step, optimizer included."""
    import time

    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        started = 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            start_peak(device)  # which waits for the device, as does `peak`
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seen.peaks.append(peak(device))
            seen.seconds.append(time.perf_counter() - self.started)

    return Watcher()


def train(setup: Setup, folder: str) -> dict[str, Any]:
    """Four steps; peak and time of the last two, and what the trainer logged of the first.

    Raises:
        RuntimeError: a loss is no finite number.
    """
    seen = Steps()
    trainer = make_trainer(setup, folder, rows_of(setup), [watcher(setup.device, seen)])
    before = start_peak(setup.device)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses = [entry["loss"] for entry in logged]
    if len(losses) != STEPS or not all(map(math.isfinite, losses)):
        raise RuntimeError(f"{STEPS} steps with a finite loss were wanted, and the losses are {losses}")
    return {
        "model_bytes": before,
        "peak_bytes": max(seen.peaks[WARM:]),
        "seconds": sum(seen.seconds[WARM:]) / len(seen.seconds[WARM:]),
        "losses": [round(loss, 4) for loss in losses],
        "kl": [entry["kl"] for entry in logged if "kl" in entry],
    }


def measure(shape: Shape, tokens: int, device: str, folder: Path) -> Iterator[dict[str, Any]]:
    """A row without and one with KL."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    for with_kl in (False, True):
        setup = Setup(shape, device, tokens, with_kl=with_kl)
        found = where_it_fits(lambda setup=setup: train(setup, str(folder)))
        release()  # a trainer is a ring of references
        yield {"with_kl": with_kl, "tokens": tokens, **(found or {"status": OUT_OF_MEMORY})}
