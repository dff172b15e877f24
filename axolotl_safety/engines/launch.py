"""How a lane's child is started: here, in a session of its own, with its share of the GPUs and cores."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from axolotl_safety.engines import process
from axolotl_safety.engines.environment import child_environment

WORKER = Path(__file__).parent / "worker"


class Process(Protocol):
    """A child as a lane sees it, wherever it runs.

    Attributes:
        pid: its process id on its machine; 0 while that is not known.
        name: what to call it in messages.
        log_path: where its log can be read here.
        started_at: by ``time.monotonic``.
        peak_rss_bytes: of what is known so far.
        ended: nothing more will come from it.
    """

    pid: int
    name: str
    log_path: Path
    started_at: float
    peak_rss_bytes: int
    ended: bool

    def send(self, message: dict[str, Any]) -> None:
        """Queues a message."""

    def flush(self) -> None:
        """Sets off what is queued."""

    def poll(self, seconds: float) -> list[dict[str, Any]]:
        """Waits at most ``seconds`` for messages and returns them."""

    def ask_to_end(self) -> None:
        """Asks it to end, without waiting."""

    def end(self, grace_seconds: float) -> str:
        """Ends it and verifies that nothing is left; returns how it ended. Raises EngineError."""

    def cause(self) -> str:
        """How it ended, in words."""

    def log_tail(self) -> str:
        """The last lines of its log."""


class Launcher(Protocol):
    """Where children run."""

    def start(self, arguments: Sequence[str], lane: int, log_path: Path) -> Process:
        """Starts a worker with these arguments for a lane. Raises EngineError."""

    def wait(self, children: Sequence[Any], seconds: float) -> None:
        """Waits until one of the children that this launcher started has something to say."""

    def close(self) -> None:
        """Gives back what the launcher itself holds, once its children are gone."""


@dataclass(frozen=True)
class LocalLauncher:
    """Children of this process.

    Attributes:
        python: interpreter; None means this one.
        worker_path: script or folder that the interpreter runs.
        devices: per lane, the GPUs as ``CUDA_VISIBLE_DEVICES`` names them; empty leaves the variable alone.
        threads: CPU threads of a child's libraries; None leaves the choice to them.
    """

    python: str | None = None
    worker_path: str | Path = WORKER
    devices: tuple[tuple[str, ...], ...] = ()
    threads: int | None = None

    def start(self, arguments: Sequence[str], lane: int, log_path: Path) -> process.Child:
        """Starts a worker with these arguments for a lane. Raises EngineError."""
        python = self.python or sys.executable
        command = [python, str(self.worker_path), *arguments]
        if threading.current_thread() is threading.main_thread():
            # The kernel's parent-death signal fires when the *thread* that started the child ends, so only from here.
            command.append("--die-with-parent")
        environ = child_environment(
            os.environ,
            # Not by what links point at: two environments often share the interpreter that theirs link to.
            other_python=os.path.abspath(python) != os.path.abspath(sys.executable),
            devices=self.devices[lane] if self.devices else None,
            threads=self.threads,
        )
        return process.Child(command, environ, log_path)

    def wait(self, children: Sequence[process.Child], seconds: float) -> None:
        """Waits until one of the children has something to say."""
        process.wait(children, seconds)

    def close(self) -> None:
        """Nothing is held here."""
