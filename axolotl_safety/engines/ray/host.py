"""The node's side of a Ray replica: a worker process, and the calls by which the driver speaks with it.

An actor carries this file and its few neighbours along (see `ray_child`), so that nothing is installed on the nodes.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from axolotl_safety.engines.base import EngineError
from axolotl_safety.engines.local.launch import LocalLauncher
from axolotl_safety.engines.local.process import Child

# Messages that follow one another closely travel together: a call costs as much as many messages.
_LINGER_SECONDS = 0.02
_LOG_BYTES = 1 << 16


class Host:
    """A worker on this node, in a process of its own, so that its end gives the GPU's memory back.

    Args:
        folder: holds the worker's files; the log goes there.
        arguments: the worker's command line.
        python: interpreter; None means the actor's.
        worker_path: script or folder that the interpreter runs.
        replicas_here: replicas that share this node's cores; None where a GPU does the work.
        environ: variables of the driver that the worker gets.
    """

    def __init__(
        self,
        folder: str,
        arguments: Sequence[str],
        python: str | None,
        worker_path: str,
        replicas_here: int | None,
        environ: Mapping[str, str],
    ) -> None:
        os.environ.update(environ)
        # Ray gives an actor as many threads as it asked for cores, and it asked for none.
        threads = max(1, (os.cpu_count() or 1) // replicas_here) if replicas_here else None
        self._log = Path(folder) / "worker.log"
        self._sent = 0
        self._child: Child | None = None
        self._cause: str | None = None
        try:
            self._child = LocalLauncher(python, worker_path, threads=threads).start(arguments, 0, self._log)
        except EngineError as error:
            self._cause = str(error)

    def about(self) -> dict[str, Any]:
        """Who runs here; process 0 if nothing could be started."""
        return {"pid": self._child.pid if self._child else 0, "node": socket.gethostname()}

    def exchange(self, lines: bytes, seconds: float) -> dict[str, Any]:
        """Hands messages to the worker and waits at most ``seconds`` for what it says.

        Returns:
            ``messages``, the new part of its ``log``, and ``cause``, how it ended, or None while it runs.
        """
        child = self._child
        if child is None:
            return {"messages": [], "log": b"", "cause": self._cause}
        child.send_lines(lines)
        messages = child.poll(seconds)
        until = time.monotonic() + _LINGER_SECONDS
        while messages and not child.ended and (left := until - time.monotonic()) > 0:
            messages += child.poll(left)
        return {"messages": messages, "log": self._new_log(), "cause": child.cause() if child.ended else None}

    def end(self, grace_seconds: float) -> dict[str, Any]:
        """Ends the worker and verifies that its group is gone. Raises EngineError."""
        if self._child is None:
            return {"cause": self._cause, "rss": 0, "log": b""}
        cause = self._child.end(grace_seconds)
        return {"cause": cause, "rss": self._child.peak_rss_bytes, "log": self._new_log()}

    def _new_log(self) -> bytes:
        with open(self._log, "rb") as log:
            log.seek(self._sent)
            new = log.read(_LOG_BYTES)
        self._sent += len(new)
        return new
