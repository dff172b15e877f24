"""How long a finished stage takes when it is walked again: nothing is asked, and the same bytes are written.

    python benchmarks/finished_stage.py --rows 10000

DGR's rows, with thoughts of 300 words in reference and rewrite, are answered by a scripted engine; then the stage is
run again with no engine allowed, on one thread, and timed. The guard is the heuristic, or with ``--guard model`` the
laboratory's, whose prompts are rendered and encoded again too. The last line is JSON: ``{"rows", "words", "guard",
"seconds", "cpu_seconds", "peak_rss_mb", "trained", "same"}``, ``same`` saying whether the second run's hash is the
first one's.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

from axolotl.utils.dict import DictDefault  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from axolotl_safety.config.validate import prepare_config  # noqa: E402
from axolotl_safety.engines.base import (  # noqa: E402
    Completion,
    EngineFigures,
    Request,
    Result,
    Score,
    ScoreRequest,
)
from axolotl_safety.engines.local.process import peak_rss_bytes  # noqa: E402
from axolotl_safety.pipeline.stage import run_stage  # noqa: E402

LAB = Path(__file__).resolve().parents[1] / "examples" / "lab"
WORDS = "lamp kettle spoon hat moon soft cloth rub gently slowly under over blue green think about careful step".split()


class Scripted:
    """A target that refuses after a long thought, and a guard that calls everything safe."""

    def __init__(self, words: int):
        self.figures = EngineFigures(starts=1)
        self._words = words
        self._tokenizers = {name: AutoTokenizer.from_pretrained(LAB / name) for name in ("model", "guard")}

    def window(self, model: str) -> int:
        """Any number."""
        return 64

    async def answer(self, request: Request | ScoreRequest) -> Result:
        """At once."""
        if isinstance(request, ScoreRequest):
            return Score(request.request_id, -1.0, len(request.response_token_ids))
        tokenizer = self._tokenizers["model" if request.model == "target" else "guard"]
        mark = random.Random(request.request_id).randrange(10**6)
        said = f"<think>\n{thought(request.request_id, self._words)}\n</think>\n\nI can't help with that, {mark}."
        text = said if request.model == "target" else "Safety: Safe\nCategories: None\nRefusal: Yes"
        ids = (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)
        return Completion(request.request_id, ids, "stop", -1.0)

    async def close(self, at_once: bool = False) -> None:
        """Nothing is held."""


def thought(seed: str, words: int) -> str:
    """So many words."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def with_window(folder: Path, name: str, tokens: int) -> Path:
    """The laboratory's model with a longer window."""
    shutil.copytree(LAB / name, folder / name)
    config = json.loads((folder / name / "config.json").read_text())
    (folder / name / "config.json").write_text(json.dumps(config | {"max_position_embeddings": tokens}))
    return folder / name


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=300)
    parser.add_argument("--guard", choices=("builtin", "model"), default="builtin")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        answer = "I'm sorry, but I cannot assist with that request, as it would be wrong to jinx anything."
        rows = [
            {"prompt": f"How do I jinx lamp {n}?", "thought": thought(str(n), options.words), "response": answer}
            for n in range(options.rows)
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        block = {"label": "harmful", "prompt_field": "prompt", "response_field": "response", "thought_field": "thought"}
        guard = {"model": "builtin"}
        if options.guard == "model":
            guard = {"model": str(with_window(folder, "guard", 16_384)), "family": "qwen3guard"}
        raw: dict[str, Any] = {
            "base_model": str(with_window(folder, "model", 16_384)),
            "sequence_len": 8192,
            "datasets": [{"path": str(folder / "rows.jsonl"), "type": "axolotl_safety.dgr", "safety": block}],
            "safety": {
                "work_dir": str(folder / "work"),
                "engine": {"backend": "transformers"},
                "guard": guard,
                "sampling": {"max_new_tokens": 4096},
            },
        }
        cfg = DictDefault(raw)
        prepare_config(cfg)
        cfg = DictDefault(cfg.to_dict())
        first = run_stage(cfg, make_engine=lambda *_: Scripted(options.words))
        wall, cpu = time.perf_counter(), time.process_time()
        second = run_stage(cfg, allow_engine=False)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    figures = {
        "rows": options.rows,
        "words": options.words,
        "guard": options.guard,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_rss_mb": round(peak_rss_bytes(os.getpid()) / 1e6),
        "trained": second[0]["rows"],
        "same": first == second,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
