"""What the data stage costs on top of its engine: same prompts, lengths, settings and threads, one run.

Ours is the whole generation path: `WorkQueue`, journal, engine client, worker. Against it stand bare vLLM
(`LLM.generate` over everything at once) and a plain loop over transformers' `generate`, sorted by length, with the
better of two batch sizes. Every engine is loaded before the clock starts. Pairs run in the order A B B A; the ratio of
a pair is our throughput over theirs, in wall time and in CPU time of all processes, and the median over the pairs
counts.

    make bench-engine
    python benchmarks/engine_overhead.py --vllm-python .venv-vllm/bin/python --requests 64 --pairs 1

The last line is JSON: ``vllm_ratio`` and ``transformers_ratio`` are the smaller of the two medians each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_safety.engines.base import ModelSpec, Request, Sampling
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.local.engine import WorkerEngine
from axolotl_safety.engines.queue import WorkQueue, gather

BARE = Path(__file__).parent / "bare_engine.py"
VOCABULARY, SHORTEST, LONGEST = 4096, 16, 256
MAX_NUM_SEQS = 64
BATCH_SIZES = (16, 64)
MODEL_LENGTH = 1024
OPTIONS = {
    "max_num_seqs": MAX_NUM_SEQS,
    "memory": {"target": {"kv_cache_memory_bytes": 512 << 20}},
}


@dataclass(frozen=True)
class Cost:
    """One run over all requests."""

    tokens: int
    wall: float
    cpu: float


def make_model(folder: Path) -> str:
    """A random model: 4 layers of width 256, 4,096 tokens."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "head_dim": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": MODEL_LENGTH}
    config = Qwen3Config(vocab_size=VOCABULARY, tie_word_embeddings=True, **shape, **heads)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def make_work(
    count: int, seed: int, shortest: int = SHORTEST, longest: int = LONGEST, vocabulary: int = VOCABULARY
) -> dict[str, Any]:
    """Prompts of a pair. Every pair has the same lengths, log-uniform between two bounds, prompts and completions."""
    lengths = random.Random(0)
    span = longest / shortest
    sizes = [(int(shortest * span ** lengths.random()), int(shortest * span ** lengths.random())) for _ in range(count)]
    draw = random.Random(seed)
    prompts = [[draw.randrange(vocabulary) for _ in range(size)] for size, _ in sizes]
    return {"prompts": prompts, "new": [new for _, new in sizes], "seed": seed}


class Kept(WorkerEngine):
    """An engine that stays when a queue is closed, so that loading is no part of what is measured."""

    async def close(self, at_once: bool = False) -> None:
        """Later."""


class Ours:
    """The data stage's way, with the engine kept between runs.

    Attributes:
        figures: the engine's.
    """

    def __init__(
        self,
        backend: str,
        spec: ModelSpec,
        python: str | None,
        batch_size: int,
        work_dir: Path,
        threads: int | None = 1,
    ) -> None:
        options = OPTIONS if backend == "vllm" else {}
        self._engine = Kept(backend, work_dir, {"target": spec}, batch_size, python, threads=threads, options=options)
        self.figures = self._engine.figures
        self._work_dir = work_dir
        self._loop = asyncio.new_event_loop()

    def run(self, work: dict[str, Any]) -> Cost:
        """Generates everything, journalled."""
        seed = work["seed"]
        asked = [
            Request(f"{seed}-{index}", "target", tuple(prompt), Sampling(0.7, 1.0, 0, new), seed, ())
            for index, (prompt, new) in enumerate(zip(work["prompts"], work["new"], strict=True))
        ]
        queue = WorkQueue({"target": Journal(self._work_dir / f"{seed}.jsonl")}, lambda: self._engine)

        async def ask(request: Request) -> int:
            return len((await queue.completion(request, {"row_id": request.request_id})).token_ids)

        async def everything() -> int:
            async with queue:
                return sum(await gather([ask(request) for request in asked]))

        cpu, wall = self._cpu(), time.perf_counter()
        tokens = self._loop.run_until_complete(everything())
        return Cost(tokens, time.perf_counter() - wall, self._cpu() - cpu)

    def _cpu(self) -> float:
        children = self.figures.pids[-1:]
        return time.process_time() + sum(group_cpu_seconds(pid) for pid in children)

    def close(self) -> None:
        """Ends the engine."""
        self._loop.run_until_complete(WorkerEngine.close(self._engine))


class Bare:
    """The other side, in its own process."""

    def __init__(self, python: str, *arguments: str, threads: int | None = 1, stderr: Any = subprocess.DEVNULL) -> None:
        environ = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr}
        self._process = subprocess.Popen([python, str(BARE), *arguments], env=environ, text=True, **pipes)
        self._read()

    def _read(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._process.args)} ended; run it by hand to see why")
        return json.loads(line)

    def run(self, work: dict[str, Any]) -> Cost:
        """Generates everything."""
        self._process.stdin.write(json.dumps(work) + "\n")
        self._process.stdin.flush()
        return Cost(**self._read())

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def group_cpu_seconds(group: int) -> float:
    """CPU seconds of the running processes of a group, their threads included."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def compare(name: str, ours: Ours, bare: Bare, requests: int, pairs: int) -> dict[str, Any]:
    """Runs the pairs, A B B A, and sums them up."""
    warm = make_work(8, seed=10_000)
    ours.run(warm), bare.run(warm)
    seen: list[tuple[Cost, Cost]] = []
    for pair in range(pairs):
        work = make_work(requests, seed=pair + 1)
        costs = {side: side.run(work) for side in ((ours, bare) if pair % 2 else (bare, ours))}
        if costs[ours].tokens != costs[bare].tokens:
            raise SystemExit(f"{name}: {costs[ours].tokens} tokens against {costs[bare].tokens}: not the same work")
        seen.append((costs[ours], costs[bare]))
        wall, cpu = ratios(seen[-1:])
        print(f"{name} pair {pair + 1}: {describe(costs[ours])} against {describe(costs[bare])}: {wall:.3f}, {cpu:.3f}")
        sys.stdout.flush()
    wall, cpu = ratios(seen)
    return {"ratio": min(wall, cpu), "wall": wall, "cpu": cpu, "tokens": seen[0][0].tokens, "n": requests}


def ratios(seen: Sequence[tuple[Cost, Cost]]) -> tuple[float, float]:
    """Median ratios of throughput, ours over theirs, in wall and in CPU time."""
    wall = statistics.median(bare.wall / ours.wall for ours, bare in seen)
    return wall, statistics.median(bare.cpu / ours.cpu for ours, bare in seen)


def describe(cost: Cost) -> str:
    """Tokens per second of wall and of CPU time."""
    return f"{cost.tokens / cost.wall:.0f} tokens/s ({cost.tokens / cost.cpu:.0f} per CPU s)"


def against_vllm(model: str, python: str, root: Path, requests: int, pairs: int, plain: bool) -> dict[str, Any]:
    """Our vLLM worker against `LLM.generate`."""
    ours = Ours("vllm", ModelSpec(model, max_model_len=MODEL_LENGTH), python, MAX_NUM_SEQS, root / "vllm")
    told = OPTIONS | {"spec": {"max_model_len": MODEL_LENGTH}}
    bare = Bare(python, "vllm", model, "--options", json.dumps(told), *(["--plain"] if plain else []))
    try:
        return compare("vllm", ours, bare, requests, pairs)
    finally:
        ours.close()
        bare.close()


def against_loop(model: str, root: Path, requests: int, pairs: int) -> dict[str, Any]:
    """Our transformers worker against the better of two sorted loops."""
    loops = {size: Bare(sys.executable, "transformers", model, "--batch-size", str(size)) for size in BATCH_SIZES}
    ours = Ours("transformers", ModelSpec(model, max_model_len=MODEL_LENGTH), None, 32, root / "transformers")
    try:
        trial = make_work(requests, seed=20_000)
        spent = {size: loop.run(trial).cpu for size, loop in loops.items()}
        best = min(spent, key=spent.__getitem__)
        return compare("transformers", ours, loops[best], requests, pairs) | {"loop_batch_size": best}
    finally:
        ours.close()
        for loop in loops.values():
            loop.close()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", help="interpreter that has vLLM; without it that half is left out")
    parser.add_argument("--requests", type=int, default=512, help="for vLLM")
    parser.add_argument(
        "--loop-requests", type=int, default=96, help="for transformers, which is slower; 0 leaves it out"
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="bare vLLM without seeds and log-probabilities")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    result: dict[str, Any] = {"vllm_ratio": None, "transformers_ratio": None}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model = make_model(root / "model")
        if options.vllm_python:
            found = against_vllm(model, options.vllm_python, root, options.requests, options.pairs, options.plain)
            result |= {"vllm_ratio": found["ratio"], "vllm": found}
        if options.loop_requests:
            found = against_loop(model, root, options.loop_requests, options.pairs)
            result |= {"transformers_ratio": found["ratio"], "transformers": found}
    lengths = {"prompt": [SHORTEST, LONGEST], "completion": [SHORTEST, LONGEST]}
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    result |= {"pairs": options.pairs, "plain": options.plain, "lengths": lengths, "threads": 1, **machine}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
