"""One replica of the engine: a child and what it was given, from its start over its crashes to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from axolotl_safety.engines.base import EngineError, EngineFigures, ModelSpec, Result

from .backlog import Backlog, Ledger
from .launch import Process
from .messages import request_message, result_of

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplicaSettings:
    """What all replicas of an engine have in common.

    Attributes:
        models: the models by the name that requests use.
        window: requests for one model with a child at once.
        stall_seconds: silence after which a child counts as hung.
        load_seconds: the same while it starts or loads a model.
        max_restarts: restarts in a row without any progress before a replica is given up.
        log_path: where the log of the next child goes.
        start: starts a child for a replica.
    """

    models: Mapping[str, ModelSpec]
    window: int
    stall_seconds: float
    load_seconds: float
    max_restarts: int
    log_path: Callable[[], Path]
    start: Callable[[int, Path], Process]


class Replica:
    """A child that starts with its first request, is restarted when it dies, and takes from the common backlog.

    Attributes:
        index: its place among the replicas; decides its GPUs.
        child: the process, while there is one.
        given_up: why this replica takes no more requests, or None.
    """

    def __init__(self, index: int, settings: ReplicaSettings, figures: EngineFigures) -> None:
        self.index = index
        self.child: Process | None = None
        self.given_up: EngineError | None = None
        self._settings = settings
        self._figures = figures
        self._ledger = Ledger(Backlog(), 0)
        self._asked_to_load: set[str] = set()
        self._loading: str | None = None  # what the child is busy with while it may be silent for long
        self._heard = 0.0
        self._fruitless_restarts = 0
        self._pid_noted = False

    def begin(self, backlog: Backlog) -> None:
        """Turns to new work. A child that is there stays."""
        self._ledger = Ledger(backlog, self._settings.window)
        self._fruitless_restarts = 0
        self.given_up = None

    def take(self, replicas: int) -> bool:
        """Takes one request, if there is room and one waits, and queues it for the child; whether it did.

        Raises:
            EngineError: the child cannot be started.
        """
        busy = self._ledger.in_flight > 0
        taken = self._ledger.next_to_send(replicas)
        if taken is None:
            return False
        number, request = taken
        child = self.child or self._start()
        if not busy:
            self._heard = time.monotonic()  # a child that had nothing to do had nothing to say
        if request.model not in self._asked_to_load:
            self._asked_to_load.add(request.model)
            spec = self._settings.models[request.model]
            child.send({"type": "load", "name": request.model, "spec": asdict(spec)})
        child.send(request_message(number, request))
        return True

    def listen(self) -> list[tuple[int, Result]]:
        """Takes in what the child has said, and sees whether it is dead or silent.

        Returns:
            Results by number, among them the failure of a request that killed the child. If the replica came to its
            end, `given_up` is set and what it held is back in the backlog.
        """
        child, ledger, results = self.child, self._ledger, []
        if child is None:
            return results
        messages = child.poll(0)
        self._note_pid(child)
        if messages:
            self._heard = time.monotonic()
        for message in messages:
            if message["type"] in ("completion", "score", "failure"):
                request = ledger.finished(message["id"])
                if request is not None:
                    self._fruitless_restarts = 0
                    results.append((message["id"], result_of(message, request)))
            elif message["type"] == "started":
                ledger.started(message["ids"])
            elif message["type"] == "fatal":
                self._give_up(child, f"failed while {self._loading or 'running'}", message)
                return results
            else:
                self._note(message, child)
        silence = time.monotonic() - self._heard
        if child.ended:
            results += self._crashed(child, child.cause())
        elif ledger.in_flight and silence > self._longest_silence:
            busy = f" while {self._loading}" if self._loading else ""
            results += self._crashed(child, f"silent for {silence:.0f} s{busy}")
        return results

    def cancel(self) -> None:
        """Tells the child to forget what it has."""
        if self.child and self._ledger.in_flight:
            self.child.send({"type": "cancel"})
            self.child.flush()
        self._ledger.cancel()

    def end(self, grace_seconds: float) -> None:
        """Ends the child and verifies that its group is gone. Raises EngineError."""
        child, self.child = self.child, None
        if child is None:
            return
        self._asked_to_load.clear()
        self._loading = None
        cause = child.end(grace_seconds)
        seconds = time.monotonic() - child.started_at
        self._figures.seconds += seconds
        self._figures.peak_rss_bytes = max(self._figures.peak_rss_bytes, child.peak_rss_bytes)
        LOG.info(
            "engine: %s and its group are gone (%s) after %.1f s; peak memory %.0f MB",
            *(child.name, cause, seconds, child.peak_rss_bytes / 1e6),
        )

    @property
    def _longest_silence(self) -> float:
        return self._settings.load_seconds if self._loading else self._settings.stall_seconds

    def _start(self) -> Process:
        log_path = self._settings.log_path()
        self._loading = "starting"
        self.child = child = self._settings.start(self.index, log_path)
        self._figures.starts += 1
        self._pid_noted = False
        self._note_pid(child)
        return child

    def _note_pid(self, child: Process) -> None:
        """A child on another machine has no process id until it is placed there."""
        if child.pid and not self._pid_noted:
            self._pid_noted = True
            self._figures.pids.append(child.pid)
            LOG.info("engine: started %s; log %s", child.name, child.log_path)

    def _note(self, message: dict[str, Any], child: Process) -> None:
        """Takes in what a message says about the child itself."""
        kind = message["type"]
        child.peak_rss_bytes = max(child.peak_rss_bytes, message.get("rss", 0))
        if kind == "loading":
            self._loading = f"loading the model {message['name']!r}"
        elif kind in ("ready", "loaded"):
            self._loading = None
            LOG.info("engine: %s", " ".join(f"{key}={value}" for key, value in message.items()))
            if kind == "ready":
                said = {key: value for key, value in message.items() if isinstance(value, str) and key != "type"}
                self._figures.worker = said
        elif kind == "progress":
            LOG.debug("engine: %s", message)

    def _crashed(self, child: Process, cause: str) -> list[tuple[int, Result]]:
        """The child is dead or silent: clear it away, find suspects, give up if this leads nowhere."""
        loading = self._loading
        self.end(grace_seconds=0)
        LOG.warning("engine: %s ended (%s); log %s", child.name, cause, child.log_path)
        if loading:
            # A second try would load the same model into the same memory.
            hint = (
                "Usual causes: too little memory, a broken checkpoint, a library missing in the engine's environment."
            )
            self._give_up(child, f"ended while {loading} ({cause})", {"hint": hint})
            return []
        poisoned = self._ledger.crashed(cause)
        self._fruitless_restarts = 0 if poisoned else self._fruitless_restarts + 1
        if self._fruitless_restarts > self._settings.max_restarts:
            what = f"died {self._fruitless_restarts} times in a row without finishing anything, the last time: {cause}"
            self._give_up(child, what, {"hint": "Lower the batch size or use another engine."})
        return [poisoned] if poisoned else []

    def _give_up(self, child: Process, what: str, said: Mapping[str, str]) -> None:
        error = f": {said['error']}" if "error" in said else "."
        self.given_up = EngineError(
            f"The engine's {child.name} {what}{error}\n{said.get('hint', '')}"
            f"\nIts log is {child.log_path}; the end of it:\n{child.log_tail()}"
        )
        self.end(grace_seconds=0)
        self._ledger.hand_back()
