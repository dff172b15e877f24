"""A replica's child on some node of a Ray cluster: an actor that hosts our worker as a process of its own.

An actor that dies, or whose node dies, is a dead child; what then happens is the replica's business, as everywhere.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from axolotl_safety.engines.base import EngineError
from axolotl_safety.engines.local.launch import WORKER
from axolotl_safety.engines.local.messages import encode
from axolotl_safety.engines.local.process import tail_of
from axolotl_safety.util.files import make_folder

_PACKAGE = Path(__file__).parents[2]
# What `host` needs of this package; nothing in them needs more than the standard library.
_SHIPPED = (
    *("__init__", "util/__init__", "util/version", "util/errors", "util/files", "util/jsonl", "util/terminal"),
    *("engines/__init__", "engines/base", "engines/ray/__init__", "engines/ray/host"),
    *("engines/local/__init__", "engines/local/launch", "engines/local/process", "engines/local/messages"),
)
_WAIT_SECONDS = 0.25  # a call to an actor: what is to be sent meanwhile waits for it
_PLACE_SECONDS = 120.0
_END_SECONDS = 20.0


def shipped_files(worker_path: Path = WORKER) -> dict[str, bytes]:
    """What an actor needs on its node, by relative path: the worker, and the part of this package that hosts it."""
    paths = [_PACKAGE / f"{name}.py" for name in _SHIPPED]
    files = {str(path.relative_to(_PACKAGE.parent)): path.read_bytes() for path in paths}
    sources = [worker_path] if worker_path.is_file() else sorted(worker_path.glob("*.py"))
    return files | {f"worker/{path.name}": path.read_bytes() for path in sources}


def actor_class() -> type:
    """The actor. Defined here inside, it travels by value: the nodes need not know this package."""

    class SafetyWorker:
        def __init__(self, files: dict[str, bytes], start: str, **arguments: Any) -> None:
            import sys
            import tempfile
            from pathlib import Path

            self._folder = tempfile.TemporaryDirectory(prefix="axolotl-safety-")
            for name, content in files.items():
                path = Path(self._folder.name, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            sys.path.insert(0, self._folder.name)
            from axolotl_safety.engines.ray.host import Host

            worker = str(Path(self._folder.name, start))
            self._host = Host(folder=self._folder.name, worker_path=worker, **arguments)

        def about(self) -> dict[str, Any]:
            return self._host.about()

        def exchange(self, lines: bytes, seconds: float) -> dict[str, Any]:
            return self._host.exchange(lines, seconds)

        def end(self, grace_seconds: float) -> dict[str, Any]:
            last = self._host.end(grace_seconds)
            self._folder.cleanup()
            return last

    return SafetyWorker


class RayChild:
    """A worker on some node, with the interface of a local child.

    Args:
        ray: the module.
        actor: handle of the actor.
        replica: for its name until it is placed.
        needs: what it asks of a node, in words.
        log_path: where its log is kept here.
    """

    def __init__(self, ray: Any, actor: Any, replica: int, needs: str, log_path: Path) -> None:
        make_folder(log_path.parent)
        log_path.touch(mode=0o600)
        self.log_path = log_path
        self.pid = 0  # until it is placed
        self.name = f"worker {replica} (not placed yet)"
        self.started_at = time.monotonic()
        self.peak_rss_bytes = 0
        self.ended = False
        self._ray, self._actor, self._needs = ray, actor, needs
        self._cause = ""
        self._outgoing = bytearray()
        self._ending: Any = None
        self._about = actor.about.remote()
        self.pending: Any = None  # the one call that is under way

    def send(self, message: dict[str, Any]) -> None:
        """Queues a message; it travels with the next call."""
        self._outgoing += encode(message)

    def flush(self) -> None:
        """Makes the next call, unless one is under way."""
        if self.pending is None and not self.ended:
            lines = bytes(self._outgoing)
            self._outgoing.clear()
            self.pending = self._actor.exchange.remote(lines, _WAIT_SECONDS)

    def poll(self, seconds: float) -> list[dict[str, Any]]:
        """Waits at most ``seconds`` for messages and returns them."""
        self.flush()
        if self.ended:
            return []
        ready, _ = self._ray.wait([self.pending], timeout=seconds)
        if not ready:
            self._check_place()
            return []
        try:
            self._learn_who()
            answer = self._ray.get(self.pending)
        except self._ray.exceptions.RayError as error:
            self._lost(error)
            return []
        self.pending = None
        self._keep_log(answer["log"])
        if answer["cause"] is not None:
            self.ended, self._cause = True, answer["cause"]
        else:
            self.flush()
        return answer["messages"]

    def ask_to_end(self) -> None:
        """Asks the worker to end, without waiting."""
        self.end_soon(5.0)

    def end_soon(self, grace_seconds: float) -> None:
        """Sets off the end."""
        if self._ending is None:
            self._ending = self._actor.end.remote(grace_seconds)

    def end(self, grace_seconds: float) -> str:
        """Ends the worker, has the node verify that its group is gone, and ends the actor.

        Raises:
            EngineError: something of the group is still there.
        """
        exceptions = self._ray.exceptions
        try:
            if self._ray.wait([self._about], timeout=0)[0]:
                self._learn_who()
            self.end_soon(grace_seconds)
            # One that has no place yet has no worker either, or one that sees its pipe close.
            last = self._ray.get(self._ending, timeout=2 * grace_seconds + _END_SECONDS if self.pid else 0)
            self._cause = last["cause"]
            self.peak_rss_bytes = max(self.peak_rss_bytes, last["rss"])
            self._keep_log(last["log"])
        except exceptions.RayTaskError as error:
            raise EngineError(f"{self.name}: {error.cause}") from error
        except exceptions.RayError as error:
            # A dead actor's worker sees its pipe close, and a lost node's cannot be asked.
            self._cause = self._cause or first_line(error)
        finally:
            self.ended = True
            self._ray.kill(self._actor)
        return self.cause()

    def cause(self) -> str:
        """How it ended, in words."""
        return self._cause or "still running"

    def log_tail(self) -> str:
        """The last lines of its log, as far as they came back."""
        return tail_of(self.log_path)

    def _learn_who(self) -> None:
        if not self.pid:
            about = self._ray.get(self._about)
            self.pid = about["pid"]
            self.name = f"{f'process {self.pid}' if self.pid else 'worker'} on node {about['node']}"

    def _check_place(self) -> None:
        if self.pid or time.monotonic() - self.started_at < _PLACE_SECONDS:
            return
        if self._ray.wait([self._about], timeout=0)[0]:
            self._learn_who()  # placed, and silent since: not a question of room
            return
        self.ended = True
        free = {name: count for name, count in self._ray.available_resources().items() if name in ("CPU", "GPU")}
        self._cause = (
            f"no node had room for it within {_PLACE_SECONDS:.0f} s: it asks for {self._needs}, and free are {free}. "
            "If training holds the GPUs already (use_ray), run `axolotl preprocess` first: training then starts no "
            "engine"
        )

    def _lost(self, error: Exception) -> None:
        self.ended, self.pending = True, None
        self._cause = first_line(error)

    def _keep_log(self, new: bytes) -> None:
        if new:
            with open(self.log_path, "ab") as log:
                log.write(new)


def first_line(error: Exception) -> str:
    """What an error of Ray's comes down to; the rest is about its own insides."""
    return f"{type(error).__name__}: {next((line for line in str(error).splitlines() if line.strip()), '')}"
