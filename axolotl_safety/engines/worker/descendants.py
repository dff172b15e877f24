"""Ends what a library started with `multiprocessing`: its processes, and theirs."""

from __future__ import annotations

import logging
import multiprocessing
import time
from contextlib import suppress

import psutil  # which vLLM needs too

LOG = logging.getLogger(__name__)
_ORPHAN_SECONDS = 1.0


def end_children(seconds: float) -> None:
    """Ends this process's children and theirs: asks, waits so many seconds, kills.

    What runs on a GPU holds its memory until it is gone, so this returns only then.
    """
    children = multiprocessing.active_children()
    below = [one for child in children for one in _below(child.pid)]
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
    while below := [one for one in below if _runs(one)]:
        if time.monotonic() > deadline:
            for one in below:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        time.sleep(0.02)


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _runs(process: psutil.Process) -> bool:
    """Whether it is at work; one that is dead and that nobody has waited for is not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
