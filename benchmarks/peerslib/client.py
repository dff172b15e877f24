"""One client of `benchmarks/peers.py` in a process of its own: ``python client.py ours|curator|plain|lean``.

A job comes as a line of JSON, figures go back as another. Each client runs in the environment that has its library, so
nothing is imported here but the standard library until the client is known.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

_SAMPLE_SECONDS = 0.02
_RETRY_SECONDS = (0.5, 1.0)
Job = dict[str, Any]
Post = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
# From a job to the call that is measured; the call returns when its last result was kept, in seconds since the epoch.
Prepare = Callable[[Job], Callable[[], float]]


def newest(folder: Path, pattern: str) -> float:
    """When the last of these files was written to."""
    return max(path.stat().st_mtime_ns for path in folder.glob(pattern)) / 1e9


def ours() -> Prepare:
    """The data stage."""
    from axolotl.utils.dict import DictDefault

    from axolotl_safety.config.validate import prepare_config
    from axolotl_safety.pipeline.stage import run_stage
    from axolotl_safety.util.errors import NothingAccepted

    def prepare(job: Job) -> Callable[[], float]:
        work_dir = Path(job["folder"]) / "safety"
        engine = {"backend": "openai", "base_url": job["url"], "model": "lab", "concurrency": job["concurrency"]}
        safety = {
            "work_dir": str(work_dir),
            "guard": {"model": "builtin"},
            "engine": engine,
            "sampling": {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_new_tokens": job["new_tokens"]},
            "thinksafe": {"ladder": ["none"], "attempts": 1},
        }
        entry = {"path": job["rows"], "type": "axolotl_safety.thinksafe", "safety": {"label": job["label"]}}
        cfg = DictDefault(
            {"base_model": job["model"], "sequence_len": job["window"], "datasets": [entry], "safety": safety}
        )
        prepare_config(cfg)
        cfg = DictDefault(cfg.to_dict())

        def run() -> float:
            with suppress(NothingAccepted):  # as planned; it is raised when everything is written
                run_stage(cfg)
            return newest(work_dir, "journal/*.jsonl")

        return run

    return prepare


def curator() -> Prepare:
    """bespokelabs-curator's `openai` backend, with its cache."""
    import litellm.litellm_core_utils.default_encoding  # noqa: F401 (points tiktoken at the vocabulary that it ships)
    from bespokelabs import curator as library
    from datasets import Dataset

    class Asking(library.LLM):
        """The prompt as it is; prompt and answer as the row."""

        def prompt(self, row: dict[str, Any]) -> str:
            """What is asked for a row."""
            return row["prompt"]

        def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
            """The row that is kept."""
            return {"prompt": row["prompt"], "response": response}

    def prepare(job: Job) -> Callable[[], float]:
        asked = json.loads(Path(job["asked"]).read_text())
        rows = [{"prompt": one["prompt"], "generation_params": json.dumps(one["chat"])} for one in asked]
        unlimited = {"max_requests_per_minute": 10**9, "max_tokens_per_minute": 10**12}
        llm = Asking(
            "lab",
            backend="openai",
            backend_params={
                "base_url": job["url"],
                "api_key": "none",
                "max_concurrent_requests": job["concurrency"],
                "invalid_finish_reasons": [],  # its default asks again for what came to its limit
                **unlimited,
            },
        )
        dataset = Dataset.from_list(rows)

        def run() -> float:
            llm(dataset, working_dir=job["folder"])
            return newest(Path(job["folder"]), "*/responses_*.jsonl")

        return run

    return prepare


def plain() -> Prepare:
    """httpx as the openai client sets it up."""
    import httpx

    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Post]:
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
        async with httpx.AsyncClient(limits=limits, timeout=600) as client:

            async def post(body: dict[str, Any]) -> dict[str, Any]:
                return (await client.post(f"{url}/completions", json=body)).raise_for_status().json()

            yield post

    return looping(opened, httpx.TransportError)


def lean() -> Prepare:
    """aiohttp."""
    import aiohttp

    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Post]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1000), raise_for_status=True) as session:

            async def post(body: dict[str, Any]) -> dict[str, Any]:
                async with session.post(f"{url}/completions", json=body) as reply:
                    return await reply.json()

            yield post

    return looping(opened, aiohttp.ClientConnectionError)


def looping(opened: Callable[[str], AbstractAsyncContextManager[Post]], lost: type[Exception]) -> Prepare:
    """A loop with a semaphore that keeps nothing, and tries again as the openai client does when a connection is lost.

    Args:
        opened: gives a function that posts.
        lost: what it raises then: a server closes connections that were idle, now and then as one is used.
    """

    async def ask_all(job: Job, bodies: list[dict[str, Any]]) -> float:
        free = asyncio.Semaphore(job["concurrency"])
        async with opened(job["url"]) as post:

            async def patiently(body: dict[str, Any]) -> dict[str, Any]:
                for wait in _RETRY_SECONDS:
                    try:
                        return await post(body)
                    except lost:
                        await asyncio.sleep(wait)
                return await post(body)

            async def ask(body: dict[str, Any]) -> dict[str, Any]:
                async with free:
                    return (await patiently(body))["choices"][0]

            await asyncio.gather(*(ask(body) for body in bodies))
            return time.time()

    def prepare(job: Job) -> Callable[[], float]:
        bodies = [one["body"] for one in json.loads(Path(job["asked"]).read_text())]
        return lambda: asyncio.run(ask_all(job, bodies))

    return prepare


class Cpu:
    """CPU seconds of this process over time, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.samples.append((time.time(), time.process_time()))

    def __enter__(self) -> Cpu:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.samples.append((time.time(), time.process_time()))


def main() -> None:
    """Answers jobs until there are no more."""
    # What the libraries print goes to the log, and only figures to whoever asked.
    figures = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    prepare = {"ours": ours, "curator": curator, "plain": plain, "lean": lean}[sys.argv[1]]()

    def say(said: dict[str, Any]) -> None:
        figures.write(json.dumps(said) + "\n")
        figures.flush()

    say({})
    for line in sys.stdin:
        run = prepare(json.loads(line))
        with Cpu() as cpu:
            started = time.time()
            kept = run()
            ended = time.time()
        say({"started": started, "kept": kept, "ended": ended, "cpu": cpu.samples})


if __name__ == "__main__":
    main()
