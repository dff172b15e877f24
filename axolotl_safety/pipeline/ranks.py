"""Once per launch: global rank 0 works under a lock, the other ranks wait for its word without any collective.

A collective would run into NCCL's timeout during a long stage (Axolotl #921, #2684), so the word is a small status
file with a heartbeat.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from axolotl_safety.util.errors import StageError
from axolotl_safety.util.files import remove_left_parts, write_atomically, writing_in

LOG = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_BEAT_SECONDS = 2.0
_SILENT_SECONDS = 60.0
_FIRST_WORD_SECONDS = 900.0
_CLOCK_SLACK_SECONDS = 10.0


def launch_key(environ: Mapping[str, str], what: str) -> str:
    """A name that all ranks of one launch share and no other launch does."""
    parts = [environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
    if environ.get("LOCAL_WORLD_SIZE") == environ.get("WORLD_SIZE"):
        parts.append(f"{socket.gethostname()}:{os.getppid()}")  # one node: all ranks are children of one launcher
    return hashlib.sha256("\0".join([what, *parts]).encode()).hexdigest()[:16]


def once(work_dir: Path, what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run ``work`` on global rank 0 and give its result, which JSON can hold, to every rank that sees the folder.

    ``what`` is the hash of the configuration, so that two never mix.

    Raises:
        StageError: on the other ranks, when rank 0 failed, died or fell silent; on rank 0, when the disk does not take
            its word or the lock.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        with exclusive(work_dir):
            return work()
    status = work_dir / "ranks" / f"{launch_key(os.environ, what)}.json"
    if int(os.environ.get("RANK", "0")) == 0:
        return _lead(work_dir, status, work)
    return _follow(status)


@contextmanager
def exclusive(work_dir: Path) -> Iterator[None]:
    """Hold the work folder alone; a second run waits, and says for whom.

    Raises:
        StageError: the disk does not take the lock.
    """
    lock = FileLock(work_dir / ".lock", mode=0o600)
    said = False
    while True:
        try:
            with writing_in(work_dir):
                lock.acquire(timeout=5)
            break
        except Timeout:
            if not said:
                LOG.warning("another run is using %s; waiting until it is done", work_dir)
                said = True
    try:
        remove_left_parts(work_dir)
        yield
    finally:
        lock.release()


def _lead(work_dir: Path, status: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    def say(state: str, **fields: Any) -> None:
        word = {"state": state, "pid": os.getpid(), "host": socket.gethostname(), "time": time.time(), **fields}
        with writing_in(work_dir):
            write_atomically(status, json.dumps(word).encode())

    say("running")
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(_BEAT_SECONDS):
            try:
                os.utime(status)
            except OSError:  # the folder is gone; the work itself will say so
                return

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        with exclusive(work_dir):
            result = work()
    except BaseException as error:
        try:
            say("failed", message=f"{type(error).__name__}: {error}")
        except (OSError, StageError) as unsaid:  # must not stand where the cause belongs; the others see us end
            LOG.warning("the other ranks are not told of the failure: %s", unsaid)
        raise
    finally:
        stop.set()
        heart.join()
    say("done", result=result)
    return result


def _follow(status: Path) -> dict[str, Any]:
    born = psutil.Process().create_time()
    LOG.info("rank %s waits for rank 0 to finish the data stage", os.environ.get("RANK"))
    waiting_since = time.monotonic()
    while True:
        word = _read(status)
        if word is None or word["time"] < born - _CLOCK_SLACK_SECONDS:  # nothing yet, or an earlier launch's
            if time.monotonic() - waiting_since > _FIRST_WORD_SECONDS:
                raise StageError(
                    f"rank 0 never began the data stage (no {status} after {_FIRST_WORD_SECONDS:.0f} s). All ranks "
                    "must see the same safety.work_dir."
                )
        elif word["state"] == "done":
            return word["result"]
        elif word["state"] == "failed":
            raise StageError(f"the data stage failed on rank 0: {word['message']}")
        elif not _alive(word, status):
            raise StageError(f"rank 0 (pid {word['pid']} on {word['host']}) died during the data stage; run it again.")
        time.sleep(_POLL_SECONDS)


def _read(status: Path) -> dict[str, Any] | None:
    try:
        return json.loads(status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _alive(word: dict[str, Any], status: Path) -> bool:
    if word["host"] == socket.gethostname() and not _runs(word["pid"]):
        return False
    try:
        return time.time() - status.stat().st_mtime < _SILENT_SECONDS
    except OSError:
        return False


def _runs(pid: int) -> bool:
    """Whether a process of this machine is at work; one that is dead and not yet reaped by its launcher is not."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
