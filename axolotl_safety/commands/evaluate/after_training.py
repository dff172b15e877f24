"""``safety.eval: {after_train: true}``: the evaluation as a process of its own, once training has let go of the GPU."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import subprocess
import sys
from typing import Any

from axolotl_safety.config.section import section
from axolotl_safety.engines.local.launch import child_environment

LOG = logging.getLogger(__name__)


def evaluate_after_training(cfg: Any) -> None:
    """Run ``axolotl safety-eval`` on what was just trained, on rank 0 alone.

    The training is done and saved: whatever goes wrong here is said loudly and changes nothing about it.
    """
    safety = section(cfg)
    settings = safety.eval
    if settings is None or not settings.after_train or int(os.environ.get("RANK", "0")) != 0:
        return
    _release_gpu()
    arguments = [str(cfg.axolotl_config_path), *safety.command_line, "--model", str(cfg.output_dir)]
    again = shlex.join(["axolotl", "safety-eval", *arguments])
    LOG.info("training has ended; evaluating it: %s", again)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "axolotl_safety.commands.evaluate.cli", *arguments],
            env=child_environment(os.environ),
            check=False,
        )
    except OSError as error:
        LOG.error("the model is trained and saved, but its evaluation did not start: %s. Try again: %s", error, again)
        return
    if done.returncode:
        LOG.error(
            "the model is trained and saved, but its evaluation ended with exit code %d (see above). What it finished "
            "is kept. Run it again with: %s",
            done.returncode,
            again,
        )


def _release_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
        LOG.info("%.2f GiB of GPU memory stay with this process", torch.cuda.memory_reserved() / 2**30)
