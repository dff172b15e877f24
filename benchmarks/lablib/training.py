"""`axolotl train`, forked from a process that has imported Axolotl once: the imports cost 10 CPU seconds a run."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

ENVIRONMENT = {
    "AXOLOTL_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}
_HEAVY = ("axolotl.cli.main", "axolotl.cli.train", "axolotl.common.datasets", "axolotl.core.builders", "axolotl.train")


def preload() -> None:
    """Import what a training run imports; set the environment first, some of it is read at import.

    The calling program must guard its ``main`` by ``__name__``: datasets starts helpers that import it again.
    """
    os.environ.update(ENVIRONMENT)
    for name in _HEAVY:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def in_child(work: Callable[..., Any], *arguments: Any, log: Path) -> None:
    """Call ``work`` in a forked process and wait; its output goes to ``log``.

    The child keeps the caller's file locks, so that whoever kills the caller cannot start a second run beside the
    first one's rest.

    Raises:
        click.ClickException: it raised or was killed; the log is named.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(out, 1)
            os.dup2(out, 2)
            work(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise click.ClickException(f"exit code {code}, see {log}")


def axolotl_train(config: Path) -> None:
    """`axolotl train CONFIG --launcher python` in this process: Axolotl's own command, its parsing and plugins too."""
    _axolotl("train", str(config), "--launcher", "python")


def axolotl_preprocess(config: Path) -> None:
    """`axolotl preprocess CONFIG` in this process: the data stage without training."""
    _axolotl("preprocess", str(config))


def _axolotl(*words: str) -> None:
    from axolotl.cli.main import cli

    sys.argv = ["axolotl"]  # Axolotl parses it once more, below click
    cli.main(list(words), standalone_mode=False)
