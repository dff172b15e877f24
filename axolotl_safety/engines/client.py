"""The engine as the rest of the package sees it: a child process that is fed, watched, restarted and ended."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from axolotl_safety.engines import footprint
from axolotl_safety.engines.base import EngineFigures, ModelSpec, Request, Result, ScoreRequest
from axolotl_safety.engines.environment import child_environment
from axolotl_safety.engines.errors import EngineError
from axolotl_safety.engines.ledger import Ledger
from axolotl_safety.engines.process import Child
from axolotl_safety.engines.wire import request_message, result_of

LOG = logging.getLogger(__name__)
_WORKER = Path(__file__).parent / "worker"
_WINDOW_BATCHES = 4  # requests with the child, in batches: enough that it never waits for us
_POLL_SECONDS = 1.0
_GRACE_SECONDS = 5.0


class WorkerEngine:
    """An `Engine` whose models live in a child process.

    The child starts with the first request and stays until `close`; models load when the first request for them
    arrives. A child that dies or falls silent is restarted without losing a request.

    Args:
        backend: what the child runs (``transformers``).
        python: interpreter for the child; None means this one.
        work_dir: where ``logs/engine-*.log`` goes.
        models: the models by the name that requests use.
        batch_size: requests that the child works on at once.
        threads: CPU threads of the child; None leaves the choice to its libraries.
        stall_seconds: silence after which the child counts as hung.
        load_seconds: the same while the child starts or loads a model.
        max_restarts: restarts in a row without any progress before the run is given up.
        worker_path: script or folder that the interpreter runs; for tests.
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
        worker_path: str | Path = _WORKER,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.figures = EngineFigures()
        self._models = dict(models)
        self._python = python or sys.executable
        self._options = ["--backend", backend, "--work-dir", str(work_dir), "--batch-size", str(batch_size)]
        self._options += ["--threads", str(threads)] if threads else []
        self._worker_path = str(worker_path)
        self._logs = Path(work_dir) / "logs"
        self._window = _WINDOW_BATCHES * batch_size
        self._stall_seconds, self._load_seconds, self._max_restarts = stall_seconds, load_seconds, max_restarts
        self._child: Child | None = None
        self._asked_to_load: set[str] = set()
        self._loading: str | None = None  # what the child is busy with while it may be silent for long
        self._heard = 0.0
        self._fruitless_restarts = 0
        self._next_number = 0
        self._running = False
        self._owner = os.getpid()

    def __enter__(self) -> WorkerEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, requests: Iterable[Request | ScoreRequest]) -> Iterator[Result]:
        """Yields one result per request, in the order they finish. Starts the child if need be.

        Closing the iterator early cancels what is still in flight.

        Args:
            requests: taken in full at once; the longest go first.

        Raises:
            EngineError: a model is unknown or does not load, or the child keeps dying without progress.
        """
        if self._running:
            raise EngineError("This engine already has a run in progress; finish or close that iterator first.")
        ledger = Ledger(requests, self._window, self._next_number)
        self._next_number = ledger.next_number
        unknown = [name for name in ledger.models if name not in self._models]
        if unknown:
            raise EngineError(f"Requests for the models {unknown}, but the engine serves {sorted(self._models)}.")
        self._running, self._fruitless_restarts = True, 0
        try:
            while not ledger.done:
                self._feed(ledger)
                yield from self._listen(ledger)
        except GeneratorExit:
            if self._child and ledger.in_flight:
                self._child.send({"type": "cancel"})
            raise
        except BaseException:  # an error of ours or Ctrl-C: leave nothing behind
            self._end(grace_seconds=0)
            raise
        finally:
            self._running = False

    def close(self) -> None:
        """Ends the child (asks, SIGTERM, SIGKILL) and verifies that its group is gone. Safe to call twice."""
        self._end(_GRACE_SECONDS)

    def _feed(self, ledger: Ledger) -> None:
        child = self._child or self._start()
        for number, request in ledger.to_send():
            if request.model not in self._asked_to_load:
                self._asked_to_load.add(request.model)
                child.send({"type": "load", "name": request.model, "spec": asdict(self._models[request.model])})
            child.send(request_message(number, request))

    def _listen(self, ledger: Ledger) -> Iterator[Result]:
        child = self._child
        assert child is not None
        messages = child.poll(_POLL_SECONDS)
        if messages:
            self._heard = time.monotonic()
        for message in messages:
            if message["type"] in ("completion", "score", "failure"):
                request = ledger.finished(message["id"])
                if request is not None:
                    self._fruitless_restarts = 0
                    yield result_of(message, request)
                    self._heard = time.monotonic()  # the time that our caller took is not the child's silence
            elif message["type"] == "started":
                ledger.started(message["ids"])
            else:
                self._note(message, child)
        silence = time.monotonic() - self._heard
        if child.ended:
            yield from self._crashed(ledger, child.cause())
        elif silence > (self._load_seconds if self._loading else self._stall_seconds):
            busy = f" while {self._loading}" if self._loading else ""
            yield from self._crashed(ledger, f"silent for {silence:.0f} s{busy}")

    def _note(self, message: dict[str, Any], child: Child) -> None:
        """Takes in what a message says about the child itself."""
        kind = message["type"]
        child.peak_rss_bytes = max(child.peak_rss_bytes, message.get("rss", 0))
        if kind == "loading":
            self._loading = f"loading the model {message['name']!r}"
        elif kind in ("ready", "loaded"):
            self._loading = None
            LOG.info("engine: %s", " ".join(f"{key}={value}" for key, value in message.items()))
        elif kind == "fatal":
            doing = self._loading or "running"
            raise EngineError(
                f"The engine failed while {doing}: {message['error']}\n{message.get('hint', '')}"
                f"\nIts log is {child.log_path}; the end of it:\n{child.log_tail()}"
            )
        elif kind == "progress":
            LOG.debug("engine: %s", message)

    def _crashed(self, ledger: Ledger, cause: str) -> Iterator[Result]:
        """The child is dead or silent: clear it away, find suspects, give up if this leads nowhere."""
        child, loading = self._child, self._loading
        assert child is not None
        self._end(grace_seconds=0)
        story = f"Its log is {child.log_path}; the end of it:\n{child.log_tail()}"
        if loading:
            raise EngineError(
                f"The engine's process {child.pid} ended while {loading} ({cause}). Usual causes: too little memory, "
                f"a broken checkpoint, a library missing in {self._python}. {story}"
            )
        poisoned = ledger.crashed(cause)
        self._fruitless_restarts = 0 if poisoned else self._fruitless_restarts + 1
        LOG.warning("engine: process %d ended (%s); log %s", child.pid, cause, child.log_path)
        if self._fruitless_restarts > self._max_restarts:
            raise EngineError(
                f"The engine died {self._fruitless_restarts} times in a row without finishing anything, the last time: "
                f"{cause}. Lower the batch size or use another engine. {story}"
            )
        if poisoned:
            yield poisoned
            self._heard = time.monotonic()

    def _start(self) -> Child:
        if self._owner != os.getpid():
            raise EngineError("This engine was made in another process; an engine does not survive a fork.")
        if self.figures.starts == 0:
            self.figures.gpu_used_before_bytes = footprint.gpu_used_bytes()
        stamp = time.strftime("%Y%m%d-%H%M%S")
        log_path = self._logs / f"engine-{stamp}-{os.getpid()}-{self.figures.starts}.log"
        command = [self._python, self._worker_path, *self._options]
        if threading.current_thread() is threading.main_thread():
            # The kernel's parent-death signal fires when the *thread* that started the child ends, so only from here.
            command.append("--die-with-parent")
        other_python = os.path.realpath(self._python) != os.path.realpath(sys.executable)
        self._loading = "starting"
        self._child = child = Child(command, child_environment(os.environ, other_python), log_path)
        atexit.register(self._at_exit)
        self._heard = time.monotonic()
        self.figures.starts += 1
        self.figures.pids.append(child.pid)
        LOG.info("engine: started process %d; log %s", child.pid, log_path)
        return child

    def _end(self, grace_seconds: float) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        self._asked_to_load.clear()
        self._loading = None
        atexit.unregister(self._at_exit)
        cause = child.end(grace_seconds)
        figures = self.figures
        seconds = time.monotonic() - child.started_at
        figures.seconds += seconds
        figures.peak_rss_bytes = max(figures.peak_rss_bytes, child.peak_rss_bytes)
        figures.gpu_used_after_bytes = footprint.gpu_used_bytes_settled(figures.gpu_used_before_bytes)
        LOG.info(
            "engine: process group %d is gone (%s) after %.1f s; peak memory %.0f MB; %s",
            *(child.pid, cause, seconds, child.peak_rss_bytes / 1e6, footprint.describe_gpu(figures)),
        )

    def _at_exit(self) -> None:
        if self._owner == os.getpid():  # a fork that ends must not take its parent's engine along
            self._end(grace_seconds=0)
