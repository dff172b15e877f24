"""Run the data stage in a process of its own, to be killed: ``python stage_runner.py config.json real|scripted``."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import tiny
from axolotl.utils.dict import DictDefault
from transformers import AutoTokenizer

from axolotl_safety.engines.base import Request, Result, ScoreRequest
from axolotl_safety.engines.choose import start_engine
from axolotl_safety.interrupt import interruptible
from axolotl_safety.register import prepare_config
from axolotl_safety.stage import run_stage


class SlowEngine(tiny.ScriptedEngine):
    """A scripted engine that takes its time, so that a kill meets it at work."""

    def run(self, requests: list[Request | ScoreRequest]) -> Iterator[Result]:
        for result in super().run(requests):
            time.sleep(0.004)
            yield result


def main() -> None:
    """Run one stage and print its outputs as JSON."""
    logging.basicConfig(level=logging.INFO)
    cfg = DictDefault(json.loads(Path(sys.argv[1]).read_text()))
    prepare_config(cfg)
    cfg = DictDefault(cfg.to_dict())

    def scripted(*_: object) -> SlowEngine:
        tokenizer = AutoTokenizer.from_pretrained(cfg.base_model)
        return SlowEngine(tiny.refusing_answer(tokenizer, True, tokenizer.eos_token_id))

    with interruptible("axolotl train again.yml"):
        outputs = run_stage(cfg, make_engine=start_engine if sys.argv[2] == "real" else scripted)
    print(json.dumps(outputs))


if __name__ == "__main__":
    main()
