"""Dies with the parent: a trainer that is SIGKILLed must not leave an orphan that holds the GPU."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1


def die() -> None:
    """Kills this process and, where it leads its own group, everything in it. Does not return."""
    if os.getpgid(0) == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def ask_kernel(parent: int) -> None:
    """Asks the kernel to kill this process when the thread that started it ends. Linux only, else without effect."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        except (OSError, AttributeError):
            return
        if os.getppid() != parent:  # it died before we asked
            die()


def watch_parent(parent: int, seconds: float = 1.0) -> None:
    """Starts a daemon thread that ends this process once its parent is another one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        die()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def guard_group() -> None:
    """Forks a small process that kills this group as soon as this process is gone, however it went.

    A library's own child processes outlive a SIGKILL of this one and would keep the GPU. Call it before anything large
    is imported and before any thread starts. Without effect where this process does not lead its own group.
    """
    group = os.getpid()
    if os.getpgid(0) != group:
        return
    ours, its = os.pipe()  # the writing end closes on exec; on a fork without one it must be closed, see below
    if os.fork():
        os.close(ours)
        held = [its]  # by this process only; a child's own child finds nothing to close
        os.register_at_fork(after_in_child=lambda: os.close(held.pop()) if held else None)
        return
    os.close(its)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):  # the parent's pipes must close with their owner
        os.dup2(null, fd)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    os.read(ours, 1)  # returns at the end of the pipe
    os.killpg(group, signal.SIGKILL)
