"""The class that Axolotl trains with where ``safety.kl`` is set: its own trainer around the loss of `step`."""

from __future__ import annotations

from typing import Any

from axolotl.core.trainers.base import AxolotlTrainer

from axolotl_safety.config import KLConfig

from .step import ForwardKLLoss


class KLTrainer(AxolotlTrainer, ForwardKLLoss):
    """Axolotl's trainer around the loss; `trainer_class` binds the settings."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Build Axolotl's trainer, then prepare the loss: AxolotlTrainer resets the flag that it needs."""
        super().__init__(*args, **kwargs)
        self.prepare_kl()


def trainer_class(settings: KLConfig) -> type[KLTrainer]:
    """A trainer class for one ``safety.kl`` block; Axolotl wants a class and gives it no other way to learn of it."""
    return type("KLTrainer", (KLTrainer,), {"settings": settings, "__doc__": KLTrainer.__doc__})
