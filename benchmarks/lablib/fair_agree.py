"""Whether the loop of a search and `axolotl train` tell the same of a setting."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .fair import EVERY, SOURCES, Figures, Judge, Key
from .figures import keep, kept
from .loop import SHAPES, WARMUP
from .methods import METHODS, config_of
from .summary import table
from .training import axolotl_train, in_child


def axolotl_run(key: Key, base: Path, work: Path, steps: int) -> Figures:
    """Train a setting, with the whole benign half, by Axolotl; look at its checkpoints until one is usable.

    Both in processes of their own: a fork of one that has computed may lack its threads.

    Args:
        key: the setting.
        base: folder of the base.
        work: where rows and journals of this base and seed are kept.
        steps: of training.

    Returns:
        ``usable_step`` and ``loss_at_usable``, None where not reached.
    """
    path, folder = work / f"{key.method}-axolotl.json", work / f"{key.method}-axolotl"
    if kept(path) is None:
        shutil.rmtree(folder, ignore_errors=True)
        config = config_of(METHODS[SOURCES[key.method]], key.seed, base, folder, work / "safety", EVERY)
        config |= SHAPES[key.shape].axolotl | {"learning_rate": key.rate, "max_steps": steps}
        config |= {"lr_scheduler": "constant_with_warmup", "warmup_steps": WARMUP}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        in_child(lambda: axolotl_train(folder / "config.json"), log=folder / "log.txt")
        in_child(lambda: keep(path, _first_usable(key, base, folder, steps)), log=folder / "judge.txt")
    return kept(path)


def _first_usable(key: Key, base: Path, folder: Path, steps: int) -> Figures:
    from labkit.models import load_model

    judge = Judge(base, "dev")
    for step in range(EVERY, steps + 1, EVERY):
        checkpoint = folder / "model" / f"checkpoint-{step}"
        model = load_model(*((base / "model", checkpoint) if SHAPES[key.shape].rank else (checkpoint,)))[0]
        if judge.usable(model)[0]:
            return {"usable_step": step, "loss_at_usable": round(judge.loss(model), 2)}
    return {"usable_step": None, "loss_at_usable": None}


def markdown(pairs: Sequence[tuple[Key, Figures, Figures]]) -> str:
    """Setting by setting, what the search's loop and Axolotl found."""

    def cells(found: Figures) -> list[str]:
        values: list[Any] = [found["usable_step"], found["loss_at_usable"]]
        return ["not reached" if value is None else f"{value:g}" for value in values]

    heads = ["method", "setting", "loop: usable at step", "loss", "axolotl train: usable at step", "loss"]
    return table(heads, [[key.method, str(key.setting), *cells(ours), *cells(theirs)] for key, ours, theirs in pairs])
