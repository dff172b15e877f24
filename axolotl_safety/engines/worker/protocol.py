"""The worker's side of the pipes, and the loop between them and a backend. Knows no backend by name."""

from __future__ import annotations

import io
import json
import os
import queue
import resource
import sys
import threading
import time
import traceback
from typing import Any

import lifeline
from items import item_of
from turns import Turns

Message = dict[str, Any]
_HEARTBEAT_SECONDS = 1.0


class LoadError(Exception):
    """A model cannot be loaded. ``hint`` is the way out."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class _Log(io.RawIOBase):
    """The process's standard error, where what the disk does not take is dropped.

    No result hangs on the log. A progress bar that cannot be printed would otherwise end a load, and its traceback,
    which cannot be printed either, would hide why.
    """

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def write(self, data: Any) -> int:
        try:
            return os.write(2, data)
        except OSError:
            return len(data)


class Channel:
    """JSON lines to and from the parent. Takes over stdin, stdout and stderr."""

    def __init__(self) -> None:
        # Libraries print: what they write to fd 1 goes to the log, and the protocol keeps the pipe for itself.
        self._out = os.dup(1)
        os.dup2(2, 1)
        sys.stdout = sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_Log()), "utf-8", "backslashreplace", line_buffering=True
        )
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="reader", daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            self._messages.put(message)
            if message["type"] == "end":
                return  # what follows is our own exit
        lifeline.die()  # the parent closed the pipe without a word: it is dead

    def take(self, wait: bool) -> list[Message]:
        """Every message that has arrived; with ``wait``, at least one."""
        messages = [self._messages.get()] if wait else []
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages

    def send(self, *messages: Message) -> None:
        """Writes messages at once."""
        data = b"".join(json.dumps(message, separators=(",", ":")).encode() + b"\n" for message in messages)
        while data:
            data = data[os.write(self._out, data) :]


def peak_rss_bytes() -> int:
    """Peak resident memory of this process in bytes."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        # Second choice: on Linux it counts in kilobytes what the parent held when it started us; macOS counts in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def serve(backend: Turns, channel: Channel) -> int:
    """Takes messages and works until told to end.

    The heartbeat comes from this loop and not from a thread, so that a hang is seen as silence.

    Returns:
        The exit status.
    """
    last_beat = 0.0
    try:
        while True:
            for message in channel.take(wait=not backend.busy):
                kind = message["type"]
                if kind == "end":
                    channel.send({"type": "bye", "rss": peak_rss_bytes()})
                    return 0
                if kind == "load":
                    _load(backend, channel, message["name"], message["spec"])
                elif kind == "cancel":
                    backend.cancel()
                else:
                    backend.add(item_of(message))
            events = backend.step() if backend.busy else []
            now = time.monotonic()
            if now - last_beat >= _HEARTBEAT_SECONDS:
                last_beat = now
                events.append({"type": "progress", "rss": peak_rss_bytes(), **backend.progress()})
            if events:
                channel.send(*events)
    except LoadError as error:
        traceback.print_exc()
        channel.send({"type": "fatal", "error": str(error), "hint": error.hint})
        return 1


def _load(backend: Turns, channel: Channel, name: str, spec: Message) -> None:
    channel.send({"type": "loading", "name": name})
    started = time.monotonic()
    backend.load(name, spec)
    channel.send({"type": "loaded", "name": name, "seconds": round(time.monotonic() - started, 1)})
