"""Ctrl-C, SIGTERM and a dead launcher end the data stage cleanly, with the command that resumes it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger(__name__)
_LAUNCHED = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")


@contextmanager
def interruptible(resume_command: str) -> Iterator[None]:
    """Turn an interruption into exit code 130 and a hint.

    ``axolotl train`` runs us below a launcher. If that launcher dies, nobody would be left to stop a night of
    generation, so its death interrupts too; a shell that goes away (nohup) does not.

    Raises:
        SystemExit: with code 130, after an interruption.
    """
    main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, _interrupt) if main else None
    stop = threading.Event()
    if main and any(name in os.environ for name in _LAUNCHED):
        threading.Thread(target=_watch_launcher, args=(stop,), daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        LOG.error("interrupted; finished work is kept. Resume with: %s", resume_command)
        raise SystemExit(130) from None
    finally:
        stop.set()
        if main:
            signal.signal(signal.SIGTERM, previous)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _watch_launcher(stop: threading.Event) -> None:
    launcher = os.getppid()
    while not stop.wait(0.25):
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGINT)
            return
