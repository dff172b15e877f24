"""The engine as the rest of the package sees it: lanes of child processes that share one queue."""

from __future__ import annotations

import atexit
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from axolotl_safety.engines.base import EngineError, EngineFigures, ModelSpec, Request, Result, ScoreRequest
from axolotl_safety.engines.gpu import given_back as gpu_memory
from axolotl_safety.engines.gpu.gpus import Gpu, read_gpus

from .backlog import Backlog
from .launch import WORKER, Launcher, LocalLauncher, Process
from .replica import Lane, LaneSettings

LOG = logging.getLogger(__name__)
_WINDOW_BATCHES = 4  # requests with a child, in batches: enough that it never waits for us
_POLL_SECONDS = 1.0
_GRACE_SECONDS = 5.0


class WorkerEngine:
    """An `Engine` whose models live in child processes, its lanes.

    A child starts with the first request for its lane and stays until `close`; models load when the first request for
    them arrives. A child that dies or falls silent is restarted without losing a request; meanwhile the other lanes go
    on. A lane that cannot go on hands its requests back, and the run ends with an error when no lane is left.

    Args:
        backend: what a child runs (``transformers``).
        work_dir: where ``logs/engine-*.log`` goes.
        models: the models by the name that requests use.
        batch_size: requests that a child works on at once.
        python: interpreter for the children; None means this one.
        threads: CPU threads of a child; None leaves the choice to its libraries.
        stall_seconds: silence after which a child counts as hung.
        load_seconds: the same while the child starts or loads a model.
        max_restarts: restarts in a row without any progress before a lane is given up.
        worker_path: script or folder that the interpreter runs; for tests.
        replicas: lanes.
        devices: per lane, its GPUs as ``CUDA_VISIBLE_DEVICES`` names them; empty leaves the variable alone.
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
            raise ValueError(f"devices for {len(devices)} lanes, but replicas is {replicas}")
        self.figures = EngineFigures()
        self._models = dict(models)
        self._arguments = ["--backend", backend, "--work-dir", str(work_dir), "--batch-size", str(batch_size)]
        self._arguments += ["--threads", str(threads)] if threads else []
        self._arguments += ["--options", json.dumps(dict(options))] if options else []
        self._logs = Path(work_dir) / "logs"
        self._launcher = launcher or LocalLauncher(python, worker_path, devices, threads)
        self._seconds_away = 0.0  # what our caller took: no child's silence
        settings = LaneSettings(
            models=self._models,
            window=_WINDOW_BATCHES * batch_size,
            stall_seconds=stall_seconds,
            load_seconds=load_seconds,
            max_restarts=max_restarts,
            log_path=self._log_path,
            start=self._start,
            clock=lambda: time.monotonic() - self._seconds_away,
        )
        self._lanes = [Lane(index, settings, self.figures) for index in range(replicas)]
        self._gpus_before: tuple[Gpu, ...] = ()
        self._next_number = 0
        self._running = False
        self._owner = os.getpid()

    def __enter__(self) -> WorkerEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, requests: Iterable[Request | ScoreRequest]) -> Iterator[Result]:
        """Yields one result per request, in the order they finish. Starts children if need be.

        Closing the iterator early cancels what is still in flight.

        Args:
            requests: taken in full at once; the longest go first.

        Raises:
            EngineError: a model is unknown, or no lane is left: a model does not load, or the children keep dying
                without progress.
        """
        if self._running:
            raise EngineError("This engine already has a run in progress; finish or close that iterator first.")
        backlog = Backlog(requests, self._next_number)
        self._next_number = backlog.next_number
        unknown = [name for name in backlog.models if name not in self._models]
        if unknown:
            raise EngineError(f"Requests for the models {unknown}, but the engine serves {sorted(self._models)}.")
        lanes = self._begin(backlog)
        self._running = True
        try:
            while backlog.unanswered:
                _deal(backlog, lanes)
                self._launcher.wait([lane.child for lane in lanes if lane.child], _POLL_SECONDS)
                for lane in lanes:
                    for result in lane.listen():
                        left = time.monotonic()
                        yield result
                        self._seconds_away += time.monotonic() - left
                lanes = self._those_left(lanes)
        except GeneratorExit:
            for lane in lanes:
                lane.cancel()
            raise
        except BaseException:  # an error of ours or Ctrl-C: leave nothing behind
            self._end(grace_seconds=0)
            raise
        finally:
            self._running = False

    def close(self) -> None:
        """Ends the children (asks, SIGTERM, SIGKILL) and verifies that their groups are gone. Safe to call twice."""
        self._end(_GRACE_SECONDS)
        self._launcher.close()

    def _begin(self, backlog: Backlog) -> list[Lane]:
        """The lanes of a new run: those that the last one left, or all of them if none was."""
        lanes = [lane for lane in self._lanes if lane.given_up is None] or self._lanes
        for lane in lanes:
            lane.begin(backlog)
        return lanes

    def _those_left(self, lanes: list[Lane]) -> list[Lane]:
        left = [lane for lane in lanes if lane.given_up is None]
        if len(left) == len(lanes):
            return lanes
        errors = [lane.given_up for lane in lanes if lane.given_up is not None]
        if not left:
            raise errors[-1]
        for error in errors:
            LOG.warning("engine: one process fewer, %d of %d go on. %s", len(left), len(self._lanes), error)
        return left

    def _log_path(self) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return self._logs / f"engine-{stamp}-{os.getpid()}-{self.figures.starts}.log"

    def _start(self, lane: int, log_path: Path) -> Process:
        if self._owner != os.getpid():
            raise EngineError("This engine was made in another process; an engine does not survive a fork.")
        if self.figures.starts == 0:
            self._gpus_before = read_gpus()
        atexit.unregister(self._at_exit)  # once, however many start
        atexit.register(self._at_exit)
        return self._launcher.start(self._arguments, lane, log_path)

    def _end(self, grace_seconds: float) -> None:
        atexit.unregister(self._at_exit)
        children = [lane.child for lane in self._lanes if lane.child]
        if not children:
            return
        if grace_seconds > 0:
            for child in children:
                child.ask_to_end()
        errors = []
        for lane in self._lanes:
            try:
                lane.end(grace_seconds)
            except EngineError as error:  # the others must go too
                errors.append(error)
        # After an error or Ctrl-C nothing follows that would need the memory: look once.
        patience = gpu_memory.WAIT_SECONDS if grace_seconds > 0 else 0.0
        self.figures.gpu_memory = gpu_memory.wait_until_given_back(self._gpus_before, read_gpus, patience)
        LOG.info("engine: ended; %s", gpu_memory.describe(self.figures))
        if errors:
            raise errors[0]

    def _at_exit(self) -> None:
        if self._owner == os.getpid():  # a fork that ends must not take its parent's engine along
            self._end(grace_seconds=0)


def _deal(backlog: Backlog, lanes: list[Lane]) -> None:
    """Gives every lane what it has room for, one request at a time in turn, so that all get long ones and short ones.

    Towards the end no lane takes more than its part of what is left: the last requests would wait for it while others
    are idle.
    """
    share = -(-backlog.unanswered // len(lanes))
    hungry = lanes
    while hungry:
        hungry = [lane for lane in hungry if lane.take(share)]
    for lane in lanes:
        if lane.child:
            lane.child.flush()
