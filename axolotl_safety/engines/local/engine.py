"""The engine as the rest of the package sees it: replicas of a child process that share one backlog."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axolotl_safety.engines.base import EngineError, EngineFigures, ModelSpec, Request, Result, ScoreRequest
from axolotl_safety.engines.gpu import given_back
from axolotl_safety.engines.gpu.gpus import Gpu, read_gpus

from .backlog import Backlog
from .launch import WORKER, Launcher, LocalLauncher, Process
from .replica import Replica, ReplicaSettings

LOG = logging.getLogger(__name__)
_WINDOW_BATCHES = 4  # requests with a child, in batches: enough that it never waits for us
_POLL_SECONDS = 1.0
_GRACE_SECONDS = 5.0


class WorkerEngine:
    """An `Engine` whose models live in child processes, its replicas.

    A child starts with the first request that its replica takes and stays until `close`; models load when the first
    request for them arrives. A child that dies or falls silent is restarted without losing a request; meanwhile the
    other replicas go on. One that cannot go on hands its requests back; when none is left, every request fails.

    Args:
        backend: what a child runs (``transformers``).
        work_dir: where ``logs/engine-*.log`` goes.
        models: the models by the name that requests use.
        batch_size: requests that a child works on at once.
        python: interpreter for the children; None means this one.
        threads: CPU threads of a child; None leaves the choice to its libraries.
        stall_seconds: silence after which a child counts as hung.
        load_seconds: the same while the child starts or loads a model.
        max_restarts: restarts in a row without any progress before a replica is given up.
        worker_path: script or folder that the interpreter runs; for tests.
        replicas: children at once.
        devices: per replica, its GPUs as ``CUDA_VISIBLE_DEVICES`` names them; empty leaves the variable alone.
        options: the worker's own options, handed to it as JSON.
        launcher: starts the children elsewhere; ``python``, ``worker_path`` and ``devices`` are then its business.
    """

    def __init__(
        self,
        backend: str,
        work_dir: str | Path,
        models: Mapping[str, ModelSpec],
        batch_size: int,
        python: str | None = None,
        threads: int | None = None,
        stall_seconds: float = 600,
        load_seconds: float = 1800,
        max_restarts: int = 3,
        worker_path: str | Path = WORKER,
        replicas: int = 1,
        devices: tuple[tuple[str, ...], ...] = (),
        options: Mapping[str, Any] | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("replicas", replicas)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if devices and len(devices) != replicas:
            raise ValueError(f"devices for {len(devices)} replicas, but replicas is {replicas}")
        self.figures = EngineFigures()
        self._models = dict(models)
        self._arguments = ["--backend", backend, "--work-dir", str(work_dir), "--batch-size", str(batch_size)]
        self._arguments += ["--threads", str(threads)] if threads else []
        self._arguments += ["--options", json.dumps(dict(options))] if options else []
        self._logs = Path(work_dir) / "logs"
        self._launcher = launcher or LocalLauncher(python, worker_path, devices, threads)
        self._window = _WINDOW_BATCHES * batch_size
        settings = ReplicaSettings(
            models=self._models,
            window=self._window,
            stall_seconds=stall_seconds,
            load_seconds=load_seconds,
            max_restarts=max_restarts,
            log_path=self._log_path,
            start=self._start,
        )
        self._replicas = [Replica(index, settings, self.figures) for index in range(replicas)]
        self._gpus_before: tuple[Gpu, ...] = ()
        self._backlog = Backlog()
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Result]] = {}
        self._serving: asyncio.Task[None] | None = None
        self._news = asyncio.Event()  # of the loop that serves
        self._owner = os.getpid()

    def window(self, model: str) -> int:
        """Requests for a model that all children together can make use of at once."""
        return self._window * len(self._replicas)

    async def answer(self, request: Request | ScoreRequest) -> Result:
        """The result of one request. Starts children if need be; cancelling it while others wait costs nothing.

        Raises:
            EngineError: the model is unknown, or no replica is left: a model does not load, or the children keep dying
                without progress.
        """
        if request.model not in self._models:
            raise EngineError(f"Request for the model {request.model!r}, but the engine serves {sorted(self._models)}.")
        number = next(self._numbers)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self._backlog.add(number, request)
        if self._serving is None or self._serving.done():
            self._news = asyncio.Event()
            self._serving = asyncio.create_task(self._serve())
        self._news.set()
        try:
            return await future
        finally:
            self._asked.pop(number, None)
            self._news.set()  # or a run whose last request was cancelled would be noticed late

    async def close(self, at_once: bool = False) -> None:
        """Ends the children (asks, SIGTERM, SIGKILL) and verifies that their groups are gone. Safe to call twice."""
        if self._serving is not None and not self._serving.done():
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        self._end(0.0 if at_once else _GRACE_SECONDS)
        self._launcher.close()

    async def _serve(self) -> None:
        """Deals requests and takes results in until nothing is asked any more."""
        left = [replica for replica in self._replicas if replica.given_up is None] or self._replicas
        for replica in left:
            replica.begin(self._backlog)
        try:
            while self._asked:
                _deal(left)
                await self._launcher.wait([one.child for one in left if one.child], self._news, _POLL_SECONDS)
                self._news.clear()
                for replica in left:
                    for number, result in replica.listen():
                        future = self._asked.pop(number, None)
                        if future is not None and not future.done():
                            future.set_result(result)
                left = self._those_left(left)
            for replica in left:  # what was cancelled may still be with a child
                replica.cancel()
        except Exception as error:
            self._end(grace_seconds=0)
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(error)
            self._asked.clear()
        finally:
            self._backlog.clear()

    def _those_left(self, replicas: list[Replica]) -> list[Replica]:
        left = [replica for replica in replicas if replica.given_up is None]
        if len(left) == len(replicas):
            return replicas
        errors = [replica.given_up for replica in replicas if replica.given_up is not None]
        if not left:
            raise errors[-1]
        for error in errors:
            LOG.warning("engine: one process fewer, %d of %d go on. %s", len(left), len(self._replicas), error)
        return left

    def _log_path(self) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return self._logs / f"engine-{stamp}-{os.getpid()}-{self.figures.starts}.log"

    def _start(self, index: int, log_path: Path) -> Process:
        if self._owner != os.getpid():
            raise EngineError("This engine was made in another process; an engine does not survive a fork.")
        if self.figures.starts == 0:
            self._gpus_before = read_gpus()
        atexit.unregister(self._at_exit)  # once, however many start
        atexit.register(self._at_exit)
        return self._launcher.start(self._arguments, index, log_path)

    def _end(self, grace_seconds: float) -> None:
        atexit.unregister(self._at_exit)
        children = [one.child for one in self._replicas if one.child]
        if not children:
            return
        if grace_seconds > 0:
            for child in children:
                child.ask_to_end()
        errors = []
        for replica in self._replicas:
            try:
                replica.end(grace_seconds)
            except EngineError as error:  # the others must go too
                errors.append(error)
        # After an error or Ctrl-C nothing follows that would need the memory: look once.
        patience = given_back.WAIT_SECONDS if grace_seconds > 0 else 0.0
        self.figures.gpu_memory = given_back.wait_until_given_back(self._gpus_before, read_gpus, patience)
        LOG.info("engine: ended; %s", given_back.describe(self.figures))
        if errors:
            raise errors[0]

    def _at_exit(self) -> None:
        if self._owner == os.getpid():  # a fork that ends must not take its parent's engine along
            self._end(grace_seconds=0)


def _deal(replicas: list[Replica]) -> None:
    """Gives every replica what it has room for, one request at a time in turn, so that all get some of each."""
    hungry = replicas
    while hungry:
        hungry = [replica for replica in hungry if replica.take(len(replicas))]
    for replica in replicas:
        if replica.child:
            replica.child.flush()
