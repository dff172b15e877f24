"""What Axolotl reaches when an entry of our type was not replaced by the data stage.

``axolotl evaluate`` never calls the plugin's ``load_datasets``: the finished dataset is served here. If the plugin
line is missing from the YAML, training must not go on without the data stage: the error names the line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from axolotl.prompt_tokenizers import DatasetWrappingStrategy

from axolotl_safety.config.section import require_plugin
from axolotl_safety.util.errors import ConfigError
from axolotl_safety.util.shown import show_plainly


class FinishedDataset(DatasetWrappingStrategy):
    """Serves what the data stage has written, and starts no engine."""

    def __init__(self, cfg: Any, entry: Any):
        """Remember which entry is asked for."""
        self._cfg = cfg
        self._entry = entry

    def wrap_dataset(
        self, dataset: Any, process_count: int | None = None, keep_in_memory: bool | None = False, **kwargs: Any
    ) -> Any:
        """The token ids of this entry.

        Raises:
            StageError: the data stage has not been finished for this YAML.
        """
        from datasets import load_from_disk

        from axolotl_safety.config.section import section
        from axolotl_safety.util.files import check_writable

        from .ranks import exclusive
        from .stage import run_stage

        work_dir = Path(section(self._cfg).work_dir)
        check_writable(work_dir)
        with exclusive(work_dir):
            outputs = run_stage(self._cfg, allow_engine=False)
        for index, entry in enumerate(self._cfg.datasets):
            same = (entry.path, entry.type, entry.field_model)  # register() put the entry's index into field_model
            if same == (self._entry.path, self._entry.type, self._entry.field_model):
                return load_from_disk(outputs[index]["train"])
        raise ConfigError(
            f"type {self._entry.type} of {self._entry.path!r} is for `datasets:`; give test_datasets another type."
        )


def load(tokenizer: Any, cfg: Any, ds_cfg: Any = None) -> FinishedDataset:
    """Axolotl's entry point for our types.

    Raises:
        ConfigError: the YAML does not list the plugin.
    """
    show_plainly()  # without the plugin, nobody has yet
    require_plugin(f"type {ds_cfg.type}")
    return FinishedDataset(cfg, ds_cfg)
