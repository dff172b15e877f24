"""Ends what a library started with `multiprocessing`: its processes, and theirs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time

LOG = logging.getLogger(__name__)
_ORPHAN_SECONDS = 1.0


def end_children(seconds: float) -> None:
    """Ends this process's children and theirs: asks, waits so many seconds, kills.

    What runs on a GPU holds its memory until it is gone, so this returns only then.
    """
    children = multiprocessing.active_children()
    below = _below({child.pid for child in children if child.pid})
    for child in children:
        child.terminate()
    deadline = time.monotonic() + seconds
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
        if child.is_alive():
            LOG.warning("process %s is still there after %.0f s; killing it", child.pid, seconds)
            child.kill()
            child.join()
    # Theirs are orphans now, and should notice.
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while below := [pid for pid in below if _parent(pid) is not None]:
        if time.monotonic() > deadline:
            for pid in below:
                _kill(pid)
        time.sleep(0.02)


def _parent(pid: int) -> int | None:
    """A running process's parent; None for one that is gone. Linux only, else every process counts as gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            # "pid (name with anything) state ppid ...": split after the last bracket
            state, parent = stat.read().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(parent)


def _below(roots: set[int]) -> list[int]:
    """The processes below these."""
    names = os.listdir("/proc") if os.path.isdir("/proc") else []
    parents = {int(name): _parent(int(name)) for name in names if name.isdigit()}
    found: list[int] = []
    new = list(roots)
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
