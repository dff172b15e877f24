"""The transformers engine through its own worker, beside plain `generate`: speed, and memory taken and given back.

This process uses no GPU itself. The two sides come one after the other, so that what the card shows is the engine's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from engine_overhead import Bare, Ours, make_work

from axolotl_safety.engines.base import ModelSpec
from axolotl_safety.engines.gpu.given_back import wait_until_given_back
from axolotl_safety.engines.gpu.gpus import read_gpus

from .memory import OUT_OF_MEMORY, GpuPeak, is_out_of_memory
from .shapes import SIZES, Size

WARM = 8  # requests before the clock starts
DTYPE = "bfloat16"
HALVED = "out of memory with"  # what the worker logs when it goes on with fewer sequences at once


def plain(name: str, model: Path, device: str, works: list[Any]) -> dict[str, Any]:
    """Makes the model, saves it, and runs sorted `generate` over the work, in a process of its own."""
    arguments = ["transformers", str(model), "--make", name, "--device", device, "--dtype", DTYPE]
    arguments += ["--batch-size", str(SIZES[name].batch)]
    before, log = read_gpus(), model.with_suffix(".log")
    bare = None
    with open(log, "wb") as stderr:
        try:
            bare = Bare(sys.executable, *arguments, threads=_threads(device), stderr=stderr)
            cost = [bare.run(work) for work in works][-1]
        except SystemExit:  # which `Bare` raises where its process ended
            return {"generate_status": _why(log)}
        finally:
            if bare is not None:
                bare.close()
            wait_until_given_back(before, read_gpus)
    return {"generate_tokens": cost.tokens, "generate_tokens_per_second": cost.tokens / cost.wall}


def ours(size: Size, model: Path, device: str, works: list[Any]) -> dict[str, Any]:
    """Runs the same through the engine, then ends it and looks whether its memory is free again."""
    work_dir = model.parent / "work"
    spec = ModelSpec(str(model), dtype=DTYPE, max_model_len=2 * size.longest)
    with GpuPeak() as peak:
        engine = Ours("transformers", spec, None, size.batch, work_dir, threads=_threads(device))
        try:
            started = time.perf_counter()
            engine.run(works[0])
            loaded = time.perf_counter() - started
            cost = engine.run(works[1])
        finally:
            engine.close()
    row = {
        "tokens": cost.tokens,
        "tokens_per_second": cost.tokens / cost.wall,
        "start_seconds": loaded,
        "main_memory_peak_bytes": engine.figures.peak_rss_bytes,
        "halved": sum(log.read_text(errors="replace").count(HALVED) for log in work_dir.glob("logs/*.log")),
    }
    for card in engine.figures.gpu_memory[:1]:
        row |= {"before_bytes": card.used_before_bytes, "peak_bytes": peak.used_bytes}
        row |= {"after_bytes": card.used_after_bytes, "given_back": card.given_back}
    return row


def measure(name: str, device: str, folder: Path) -> dict[str, Any]:
    """One row for the model of a size; the folder takes its files.

    Raises:
        RuntimeError: the two sides did not make the same number of tokens.
        EngineError: the engine cannot go on.
    """
    size, model = SIZES[name], folder / "model"
    bounds = (size.shortest, size.longest, size.shape.vocabulary)
    works = [make_work(min(WARM, size.requests), 10_000, *bounds), make_work(size.requests, 1, *bounds)]
    row = {"requests": size.requests, "batch": size.batch, **plain(name, model, device, works)}
    if not (model / "config.json").exists():
        return row | {"status": f"the model could not be made: {row['generate_status']}"}
    row |= ours(size, model, device, works)
    if "generate_tokens" in row:
        if row["generate_tokens"] != row["tokens"]:
            raise RuntimeError(f"{row['tokens']} tokens against {row['generate_tokens']}: not the same work")
        row["ratio"] = row["tokens_per_second"] / row["generate_tokens_per_second"]
    return row


def _threads(device: str) -> int | None:
    return 1 if device == "cpu" else None


def _why(log: Path) -> str:
    text = log.read_text(errors="replace").strip()
    return OUT_OF_MEMORY if is_out_of_memory(text) else text.rpartition("\n")[2][:200] or "ended without a word"
