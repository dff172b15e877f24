"""An Axolotl plugin: bf16 on a CPU, which transformers refuses unless it is told that a CPU is meant."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin


class OnCpu(BasePlugin):
    """Axolotl 0.19 and 0.21 have no key of their own for it."""

    def get_training_args(self, cfg: Any) -> dict[str, Any]:
        """What is added to the trainer's arguments."""
        return {"use_cpu": True}
