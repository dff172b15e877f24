"""Our own time and memory per request: the queue, the journal and the pipes, around a worker that has no model.

    python benchmarks/queue_overhead.py                          # 100,000 requests, one worker
    python benchmarks/queue_overhead.py --requests 10000 --lanes 2

The time is CPU seconds of this process, the worker's not counted: wall time would measure the machine. Every
completion is journalled. The last line is JSON: ``us_per_request``, ``rss_growth_mb`` (resident memory at the end above
what it was after the first tenth of the results), ``rss_peak_mb``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import axolotl_safety
from axolotl_safety.engines.base import ModelSpec, Request, Sampling
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.local.engine import WorkerEngine
from axolotl_safety.engines.local.process import peak_rss_bytes
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.methods.run import bounded

PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--lanes", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options)
    print(f"{options.requests:,} requests, {options.prompt_tokens} tokens in, {options.new_tokens} out, journalled")
    print(json.dumps(figures))
    return 0


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs all requests through a queue whose workers answer at once."""
    sampling = Sampling(1.0, 1.0, 0, options.new_tokens)
    prompt = tuple(range(options.prompt_tokens))
    asked = [Request(f"{number:032x}", "target", prompt, sampling, number, ()) for number in range(options.requests)]

    def start() -> WorkerEngine:
        models = {"target": ModelSpec("none")}
        return WorkerEngine("none", folder, models, batch_size=64, worker_path=__file__, replicas=options.lanes)

    resident: list[int] = []

    async def ask(request: Request) -> bool:
        found = await queue.completion(request)
        if (len(queue.generated) * 10) % options.requests == 0:
            resident.append(rss())
        return found.token_ids[:1] == (request.seed % 1000,)

    async def everything() -> list[bool]:
        async with queue:
            return await bounded(asked, ask)

    started = time.process_time()
    queue = WorkQueue({"target": Journal(folder / "journal.jsonl")}, start)
    found = asyncio.run(everything())
    seconds = time.process_time() - started
    held = sum(found)
    if held != options.requests:
        raise SystemExit(f"{options.requests - held} of {options.requests} requests have no or a wrong completion")
    return {
        "us_per_request": round(seconds / options.requests * 1e6, 1),
        "rss_growth_mb": round((resident[-1] - resident[0]) / 1e6, 1),
        "rss_peak_mb": round(peak_rss_bytes(os.getpid()) / 1e6, 1),
        "lanes": options.lanes,
    }


def rss() -> int:
    """LoadedModel memory of this process now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def work() -> int:
    """The worker: its real loop and pipes, and a backend that answers whatever it is asked at once."""
    sys.path.insert(0, str(Path(axolotl_safety.__file__).parent / "engines" / "worker"))
    import lifeline
    import protocol

    class Backend:
        def __init__(self) -> None:
            self.items: list[Any] = []

        @property
        def busy(self) -> bool:
            return bool(self.items)

        def load(self, name: str, spec: dict[str, Any]) -> None:
            pass

        def add(self, item: Any) -> None:
            self.items.append(item)

        def step(self) -> list[dict[str, Any]]:
            now, self.items = self.items[:64], self.items[64:]
            events = [{"type": "started", "ids": [item.number for item in now]}]
            return events + [
                {
                    "type": "completion",
                    "id": item.number,
                    "tokens": [item.seed % 1000] * item.max_new_tokens,
                    "finish": "length",
                    "logprob": -1.0,
                }
                for item in now
            ]

        def cancel(self) -> None:
            self.items.clear()

        def progress(self) -> dict[str, Any]:
            return {}

    lifeline.watch_parent(os.getppid())
    channel = protocol.Channel()
    channel.send({"type": "ready"})
    return protocol.serve(Backend(), channel)


if __name__ == "__main__":
    if "--backend" in sys.argv:
        os._exit(work())
    raise SystemExit(main())
