"""One child process and its two pipes. Single-threaded: the caller polls, nothing happens in between."""

from __future__ import annotations

import errno
import logging
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from axolotl_safety.engines.base import EngineError
from axolotl_safety.util import jsonl
from axolotl_safety.util.files import make_folder, opener

from .messages import encode

LOG = logging.getLogger(__name__)
_READ_BYTES = 1 << 18
_TAIL_BYTES = 3000


class Child:
    """A child in a session of its own, spoken to in JSON lines.

    Args:
        command: the child's command line.
        environ: the child's environment.
        log_path: where its stderr goes.

    Raises:
        EngineError: the command cannot be started.
        OSError: the disk does not take the log.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log_path: Path) -> None:
        make_folder(log_path.parent)
        self.log_path = log_path
        try:
            with open(log_path, "ab", opener=opener) as log:
                # A session of its own: Ctrl-C goes to us alone, and the whole group can be killed without harming us.
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=dict(environ),
                    bufsize=0,
                    close_fds=True,
                    start_new_session=True,
                )
        except OSError as error:
            if error.filename == str(log_path):  # the disk's fault, which has a way out of its own
                raise
            raise EngineError(
                f"The engine could not be started: {error}. Command: {' '.join(command)}. "
                "Check the path of the engine's python interpreter."
            ) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self.pid = self._process.pid
        self.name = f"process {self.pid}"
        self.started_at = time.monotonic()
        self.peak_rss_bytes = 0
        self.ended = False  # nothing more will be read
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._outgoing = bytearray()
        self._incoming = b""
        self._selector = selectors.DefaultSelector()
        # Not blocking: a child that hangs while its pipe is full must not take us with it.
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._writing = False
        self._asked_to_end: float | None = None

    def fileno(self) -> int:
        """What becomes readable when `poll` has something to do, so that one loop serves several children."""
        return self._selector.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Queues a message; `flush` or `poll` writes it."""
        self._outgoing += encode(message)

    def send_lines(self, lines: bytes) -> None:
        """Queues messages that are lines already."""
        self._outgoing += lines

    def poll(self, seconds: float) -> list[dict[str, Any]]:
        """Writes what is queued, waits at most ``seconds`` for messages and returns those that are complete."""
        self.flush()
        ready = self._selector.select(seconds)
        if not ready and self._process.poll() is not None:
            # Something else holds its end of the pipe open; its last words may have come after the look above.
            while self._read():
                pass
            self.ended = True
        for key, _ in ready:
            if key.fileobj is self._stdin:
                self.flush()
            else:
                self._read()
        if not self._incoming:
            return []
        *lines, self._incoming = self._incoming.split(b"\n")
        return [jsonl.load(line) for line in lines if line]

    def flush(self) -> None:
        """Writes as much of what is queued as the pipe takes; the rest goes when it has room again."""
        try:
            while self._outgoing:
                written = os.write(self._stdin.fileno(), memoryview(self._outgoing)[:_READ_BYTES])
                del self._outgoing[:written]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            self._outgoing.clear()  # it died; reading to the end says so
        if bool(self._outgoing) != self._writing:
            self._writing = bool(self._outgoing)
            if self._writing:
                self._selector.register(self._stdin, selectors.EVENT_WRITE)
            else:
                self._selector.unregister(self._stdin)

    def _read(self) -> bool:
        """Reads what has arrived; whether there was anything."""
        try:
            chunk = os.read(self._stdout.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self.ended = True
            self._incoming = self._incoming[: self._incoming.rfind(b"\n") + 1]  # not a line that death cut in half
        self._incoming += chunk
        return bool(chunk)

    def ask_to_end(self) -> None:
        """Asks the child to end, without waiting: several children can then come to their end together."""
        if self._asked_to_end is None and self._process.poll() is None:
            self._asked_to_end = time.monotonic()
            self.send({"type": "end"})
            self.flush()

    def end(self, grace_seconds: float) -> str:
        """Ends the child and its group: asks, then SIGTERM, then SIGKILL. Verifies that nothing is left.

        Args:
            grace_seconds: how long to wait after asking, and again after SIGTERM; 0 kills at once.

        Returns:
            How the child ended, in words.

        Raises:
            EngineError: something of the group is still there.
        """
        self.peak_rss_bytes = max(self.peak_rss_bytes, peak_rss_bytes(self.pid))
        if grace_seconds > 0 and self._process.poll() is None:
            self.ask_to_end()
            asked = self._asked_to_end or 0.0
            self._drain(asked + grace_seconds - time.monotonic())
            if self._process.poll() is None:
                kill_group(self.pid, signal.SIGTERM)
                self._drain(grace_seconds)
        # Always: the leader may have left helpers behind.
        if group_is_alive(self.pid):
            kill_group(self.pid)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            LOG.error("engine: process %d did not die within 10 s of SIGKILL (stuck in the kernel?)", self.pid)
        deadline = time.monotonic() + 5
        while (alive := group_is_alive(self.pid)) and time.monotonic() < deadline:
            kill_group(self.pid)
            time.sleep(0.02)
        self._selector.close()
        self._stdin.close()
        self._stdout.close()
        self.ended = True
        if alive:
            raise EngineError(
                f"the engine's process group {self.pid} is still alive after SIGKILL and may hold GPU memory. Look at "
                f"`ps -g {self.pid}`, end what is left, and run the same command again: finished work is kept."
            )
        return self.cause()

    def _drain(self, seconds: float) -> None:
        """Waits for the exit; reads meanwhile, so that a child that blocks on a full pipe can come to its end."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            if self.ended:
                time.sleep(0.01)
                continue
            for message in self.poll(0.05):
                self.peak_rss_bytes = max(self.peak_rss_bytes, message.get("rss", 0))

    def cause(self) -> str:
        """How the child ended, in words."""
        try:
            code = self._process.wait(2)  # the pipe closes a moment before the process can be reaped
        except subprocess.TimeoutExpired:
            return "still running"
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"

    def log_tail(self) -> str:
        """The last lines of the child's log."""
        return tail_of(self.log_path)


def tail_of(log_path: Path) -> str:
    """The last lines of a log."""
    try:
        with open(log_path, "rb") as log:
            log.seek(max(0, os.path.getsize(log_path) - _TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
    except OSError as error:
        return f"(no log: {error})"


def peak_rss_bytes(pid: int) -> int:
    """Peak resident memory of a running process in bytes; 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


def group_is_alive(pgid: int) -> bool:
    """Whether a process group has a member that still runs. Zombies that nobody reaps do not count."""
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return True
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
                # "pid (name with anything) state ppid pgrp ...": split after the last bracket
                state, _, pgrp = stat.read().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(pgrp) == pgid and state not in "ZX":
            return True
    return False


def kill_group(pgid: int, signum: int = signal.SIGKILL) -> None:
    """Signals a process group; one that is gone already is fine."""
    try:
        os.killpg(pgid, signum)
    except (ProcessLookupError, PermissionError):
        pass
