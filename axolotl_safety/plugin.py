"""The plugin: Axolotl's hooks in life-cycle order, and nothing else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from axolotl.integrations.base import BasePlugin

if TYPE_CHECKING:
    from axolotl.utils.dict import DictDefault


class SafetyPlugin(BasePlugin):
    """Runs the data stage before Axolotl's own loader sees the datasets."""

    def register(self, cfg: DictDefault) -> None:
        """Check the raw YAML and lift the datasets' own blocks; cheap, and the same when called again."""
        from .register import prepare_config

        logging.getLogger("axolotl_safety").setLevel(logging.INFO)
        prepare_config(cfg)

    def get_input_args(self) -> str:
        """The ``safety:`` section, merged into Axolotl's input model."""
        return "axolotl_safety.config.SafetyArgs"

    def load_datasets(self, cfg: DictDefault, preprocess: bool = False) -> None:
        """Run the data stage and put its output in the place of our dataset entries.

        Returning None leaves caching, packing, splitting and mixing to Axolotl.
        """
        from pathlib import Path

        from axolotl.utils.dict import DictDefault

        from .interrupt import interruptible
        from .ranks import once
        from .stage import check_writable, config_hash, our_entries, refuse_adapter_below, run_stage, section

        if cfg.rl or not our_entries(cfg):
            return
        refuse_adapter_below(cfg)
        work_dir = Path(section(cfg).work_dir)
        check_writable(work_dir)

        def work() -> dict[str, Any]:
            return {str(index): output for index, output in run_stage(cfg).items()}

        command = f"axolotl {'preprocess' if preprocess else 'train'} {cfg.axolotl_config_path}"
        with interruptible(command):
            outputs = once(work_dir, config_hash(cfg), work)
        for index, output in outputs.items():
            cfg.datasets[int(index)] = DictDefault({"path": output["train"], "type": None})
