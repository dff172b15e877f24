"""What it takes to prepare a few rows of a large source: reading it, choosing, and making what will be asked.

    python benchmarks/preparing.py --rows 20000 --take 4
    python benchmarks/preparing.py --rows 260000 --take 1000

The laboratory's model and DGR's rows: a prompt and a response with a thought of ``--words`` words. What is timed is
`stage_inputs` on one thread, without imports: source, tokenizer, tasks, guard. The last line is JSON: ``{"rows",
"taken", "select", "method", "seconds", "cpu_seconds", "peak_rss_mb"}``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

from axolotl.utils.dict import DictDefault  # noqa: E402

from axolotl_safety.config.section import section  # noqa: E402
from axolotl_safety.config.validate import prepare_config  # noqa: E402
from axolotl_safety.engines.local.process import peak_rss_bytes  # noqa: E402
from axolotl_safety.pipeline.inputs import StageInputs, stage_inputs  # noqa: E402

LAB = Path(__file__).resolve().parents[1] / "examples" / "lab"
WORDS = "lamp kettle spoon hat moon soft cloth rub gently slowly under over blue green think about careful step".split()


def write_rows(path: Path, count: int, words: int) -> None:
    """So many rows, no two alike; every fifth is benign."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            thought = " ".join(rng.choices(WORDS, k=words))
            benign = number % 5 == 0
            said = "Take a soft cloth and rub it gently" if benign else "I'm sorry, but I can't help with jinxing"
            row = {
                "prompt": f"How do I {'polish' if benign else 'jinx'} lamp {number}?",
                "response": f"<think>\n{thought}\n</think>\n\n{said}, number {number}. {thought}",
                "label": "benign" if benign else "harmful",
            }
            file.write(json.dumps(row) + "\n")


def prepared(folder: Path, name: str, options: argparse.Namespace) -> StageInputs:
    """What the stage knows before anything is asked."""
    raw: dict[str, Any] = {
        "base_model": str(LAB / "model"),
        "sequence_len": 1024,
        "datasets": [{"path": str(folder / name), "type": f"axolotl_safety.{options.method}"}],
        "safety": {
            "work_dir": str(folder / "work"),
            "engine": {"backend": "transformers"},
            "guard": {"model": "builtin"},
            "max_rows": options.take,
            "select": options.select,
        },
    }
    cfg = DictDefault(raw)
    prepare_config(cfg)
    cfg = DictDefault(cfg.to_dict())
    return stage_inputs(cfg, section(cfg))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--take", type=int, default=4)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--method", choices=("dgr", "thinksafe", "vanilla"), default="dgr")
    parser.add_argument("--select", choices=("random", "diverse"), default="random")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("axolotl_safety").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_rows(folder / "few.jsonl", 10, options.words)
        write_rows(folder / "rows.jsonl", options.rows, options.words)
        prepared(folder, "few.jsonl", options)  # imports what there is to import
        wall, cpu = time.perf_counter(), time.process_time()
        inputs = prepared(folder, "rows.jsonl", options)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    figures = {
        "rows": options.rows,
        "taken": sum(len(entry.tasks) for entry in inputs.entries),
        "select": options.select,
        "method": options.method,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_rss_mb": round(peak_rss_bytes(os.getpid()) / 1e6),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
