"""Run data stages in processes of their own, to be killed.

Imports cost ten seconds and a campaign kills dozens of runs, so this program imports once and forks a run for each
line on its standard input: ``start <config.json> <real|scripted|evaluate> <output file>`` answers with a pid,
``wait <pid>`` with the exit code. ``evaluate`` runs the evaluation, with the scripted engine.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path

from axolotl.utils.dict import DictDefault
from transformers import AutoTokenizer

from axolotl_safety.commands.evaluate.evaluation import evaluate
from axolotl_safety.config.validate import prepare_config
from axolotl_safety.engines.base import Request, Result, ScoreRequest
from axolotl_safety.engines.choose import start_engine
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.interrupt import interruptible
from support import tiny


class SlowEngine(tiny.ScriptedEngine):
    """A scripted engine that takes its time, so that a kill meets it at work."""

    delivered = 0  # by all engines of this process

    async def answer(self, request: Request | ScoreRequest) -> Result:
        result = await super().answer(request)
        time.sleep(0.004)
        SlowEngine.delivered += 1
        return result


def run(config: str, engine: str, output: str) -> None:
    """Run one stage in a session of its own; its output goes to a file, the last line is the outputs as JSON."""
    os.setsid()
    tiny.own_progress_lock()
    for fd in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), fd)
    logging.basicConfig(level=logging.INFO)
    cfg = DictDefault(json.loads(Path(config).read_text()))
    prepare_config(cfg)
    cfg = DictDefault(cfg.to_dict())

    def scripted(*_: object) -> SlowEngine:
        tokenizer = AutoTokenizer.from_pretrained(cfg.base_model)
        return SlowEngine(tiny.refusing_answer(tokenizer, True, tokenizer.eos_token_id))

    if engine == "evaluate":
        folder = evaluate(cfg, make_engine=scripted).folder
        print(json.dumps({"0": {"folder": str(folder), "asked": SlowEngine.delivered}}), flush=True)
        return
    with interruptible("axolotl train again.yml"):
        outputs = run_stage(cfg, make_engine=start_engine if engine == "real" else scripted)
    print(json.dumps(outputs), flush=True)


def guarded(*arguments: str) -> int:
    """Exit code of a run, as the interpreter would give it."""
    try:
        run(*arguments)
        return 0
    except SystemExit as ending:
        return int(ending.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1


def main() -> None:
    """Serve commands until the standard input ends."""
    tiny.own_progress_lock()
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "start":
            pid = os.fork()
            if pid == 0:
                code = guarded(*arguments)
                sys.stdout.flush()
                os._exit(code)
            print(pid, flush=True)
        else:
            _, status = os.waitpid(int(arguments[0]), 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
