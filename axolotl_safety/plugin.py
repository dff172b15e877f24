"""The plugin: Axolotl's hooks in life-cycle order, and nothing else."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axolotl.integrations.base import BasePlugin

from axolotl_safety.util.releases import names_us

if TYPE_CHECKING:
    from axolotl.utils.dict import DictDefault

    from axolotl_safety.config import KLConfig


class SafetyPlugin(BasePlugin):
    """Runs the data stage before Axolotl's own loader sees the datasets.

    From Axolotl 0.21 on an installed plugin is asked in every run, so a hook leaves a YAML that does not name it alone.
    """

    def __init__(self) -> None:
        """Know nothing of a YAML yet."""
        super().__init__()
        self._named = False
        self._run = ""  # identity of the data stage that was walked in this process

    def register(self, cfg: DictDefault) -> None:
        """Check the raw YAML and lift the datasets' own blocks; cheap, and the same when called again."""
        self._named = names_us(cfg)
        if not self._named:
            return
        from axolotl_safety.config.validate import prepare_config
        from axolotl_safety.util.shown import show_plainly
        from axolotl_safety.util.terminal import log_plainly

        show_plainly()
        logger = logging.getLogger("axolotl_safety")
        logger.setLevel(logging.INFO)
        log_plainly(logger)
        prepare_config(cfg)

    def get_input_args(self) -> str | None:
        """The ``safety:`` section, merged into Axolotl's input model; None for a YAML that does not name us."""
        return "axolotl_safety.config.SafetyArgs" if self._named else None

    def load_datasets(self, cfg: DictDefault, preprocess: bool = False) -> None:
        """Run the data stage and put its output in the place of our dataset entries.

        Returning None leaves caching, packing, splitting and mixing to Axolotl.
        """
        if not names_us(cfg):
            return
        from axolotl.utils.dict import DictDefault

        from axolotl_safety.commands.evaluate.development import met_by_evaluation
        from axolotl_safety.commands.plan.gate import check_plan
        from axolotl_safety.commands.report.page import try_report
        from axolotl_safety.config.section import our_entries, section
        from axolotl_safety.pipeline.identity import run_of
        from axolotl_safety.pipeline.ranks import once
        from axolotl_safety.pipeline.stage import check_adapter_below, config_hash, run_stage
        from axolotl_safety.util.errors import NothingAccepted
        from axolotl_safety.util.files import check_writable
        from axolotl_safety.util.interrupt import interruptible

        if cfg.rl:
            from axolotl_safety.methods.grpo.context import check_rewards

            check_rewards(cfg)
            return
        if not our_entries(cfg):
            return
        check_adapter_below(cfg)
        safety = section(cfg)
        work_dir, run = Path(safety.work_dir), run_of(cfg)
        check_writable(work_dir)

        def work() -> dict[str, Any]:
            try:
                outputs = run_stage(cfg, gate=check_plan, met=met_by_evaluation)
            except NothingAccepted:  # then more than ever
                try_report(work_dir, run)
                raise
            try_report(work_dir, run)
            return {str(index): output for index, output in outputs.items()}

        command = ["axolotl", "preprocess" if preprocess else "train", str(cfg.axolotl_config_path)]
        with interruptible(shlex.join([*command, *safety.command_line])):
            outputs = once(work_dir, config_hash(cfg, safety), work)
        for index, output in outputs.items():
            cfg.datasets[int(index)] = DictDefault({"path": output["train"], "type": None})
        self._run = run

    def get_training_args(self, cfg: DictDefault) -> dict[str, Any] | None:
        """What TRL renders prompts with under ``rl:``; Axolotl keeps ``chat_template_kwargs`` to its own rows there."""
        if not cfg.rl or not names_us(cfg):
            return None
        from axolotl_safety.config.grpo_conflicts import serves_trainer
        from axolotl_safety.config.section import section, template_kwargs

        if not serves_trainer(cfg):
            return None
        values = template_kwargs(cfg, section(cfg))
        return {"chat_template_kwargs": values} if values else None

    def get_trainer_cls(self, cfg: DictDefault) -> type | None:
        """The KL trainer; None, and so Axolotl's own, where ``safety.kl`` is not set."""
        kl = _kl_settings(cfg)
        if kl is None:
            return None
        from axolotl_safety.methods.kl.trainer import (
            trainer_class,  # imports axolotl.core, which must not be imported before this
        )

        return trainer_class(kl)

    def get_collator_cls_and_kwargs(self, cfg: DictDefault, is_eval: bool = False) -> tuple[type, dict] | None:
        """A collator that carries the KL mask; None, and so Axolotl's own, where ``safety.kl`` is not set."""
        if _kl_settings(cfg) is None:
            return None
        from axolotl_safety.methods.kl.collator import collator_for

        return collator_for(cfg, is_eval)

    def post_trainer_create(self, cfg: DictDefault, trainer: Any) -> None:
        """Make sure that no other plugin's trainer stands where the KL trainer should."""
        if _kl_settings(cfg) is not None and not hasattr(trainer, "prepare_kl"):
            from axolotl_safety.util.errors import ConfigError

            raise ConfigError(
                f"safety.kl is set, but the trainer is {type(trainer).__name__}: a plugin above ours brings its own. "
                "List axolotl_safety.SafetyPlugin first, or remove safety.kl."
            )

    def add_callbacks_post_trainer(self, cfg: DictDefault, trainer: Any) -> list[Any]:
        """What ends training where it is enough; nothing where ``safety.stop`` is not set, or no stage was walked."""
        if not self._run:  # only what names us has one
            return []
        from axolotl_safety.config.section import section, template_kwargs

        safety = section(cfg)
        if safety.stop is None:
            return []
        from axolotl.loaders import load_tokenizer

        from axolotl_safety.config.work_dir import DEVELOPMENT, STOPPED, of_run
        from axolotl_safety.data.development import Development
        from axolotl_safety.data.tokenizer import TargetTokenizer
        from axolotl_safety.methods.stop.callback import StopWhenEnough

        found = Development.read(Path(safety.work_dir) / of_run(DEVELOPMENT, self._run))
        values = template_kwargs(cfg, safety)
        tokens = TargetTokenizer(load_tokenizer(cfg), found.stop_token_ids, safety.think, values)
        told = [Path(safety.work_dir) / name for name in (of_run(STOPPED, self._run), STOPPED)]
        return [StopWhenEnough(trainer, safety.stop, found, tokens, *told)]

    def post_train_unload(self, cfg: DictDefault) -> None:
        """Put how training was judged into the report; evaluate where ``safety.eval: {after_train: true}`` asks for it.

        From Axolotl 0.20 on this is called while the error of a failed training is on its way up, too.
        """
        if not names_us(cfg) or sys.exception() is not None:
            return
        from axolotl_safety.commands.evaluate.after_training import evaluate_after_training

        if self._run and int(os.environ.get("RANK", "0")) == 0:
            _report_on_stop(cfg, self._run)
        evaluate_after_training(cfg)

    def post_lora_merge(self, cfg: DictDefault, adapter_path: str, output_path: str) -> None:
        """Note what was merged from what (Axolotl 0.21 and newer call this), for the report."""
        if not names_us(cfg):
            return
        from axolotl_safety.commands.report.merges import note_merge

        note_merge(cfg, adapter_path, output_path)


def _report_on_stop(cfg: DictDefault, run: str) -> None:
    from axolotl_safety.commands.report.page import try_report
    from axolotl_safety.config.section import section

    safety = section(cfg)
    if safety.stop is not None:
        try_report(Path(safety.work_dir), run)


def _kl_settings(cfg: DictDefault) -> KLConfig | None:
    if cfg.rl or not names_us(cfg):
        return None
    from axolotl_safety.config.section import section

    return section(cfg).kl
