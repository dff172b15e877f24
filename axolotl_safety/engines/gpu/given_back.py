"""Checks that the engine gave the GPUs' memory back: training must not find it taken.

An engine in the trainer's process keeps memory that no call frees (vLLM issues 1908, 16543, 23793). Ours lives in
processes that end; this module looks at what the driver says about it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

from axolotl_safety.engines.base import EngineFigures, GpuMemory
from axolotl_safety.util.errors import StageError

from .gpus import Gpu

SLACK_BYTES = 300_000_000
WAIT_SECONDS = 30.0
_POLL_SECONDS = 0.2


def wait_until_given_back(
    before: Sequence[Gpu],
    read: Callable[[], Sequence[Gpu]],
    seconds: float = WAIT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[GpuMemory, ...]:
    """Waits until every GPU is back to what was in use before, plus 300 MB; the driver frees with a delay.

    Returns:
        What was found at last, per GPU that could be read both times.
    """
    deadline = clock() + seconds
    while True:
        now = {gpu.name: gpu for gpu in read()}
        found = tuple(_compare(gpu, now[gpu.name]) for gpu in before if gpu.name in now)
        if all(gpu.given_back for gpu in found) or clock() >= deadline:
            return found
        sleep(_POLL_SECONDS)


def require_given_back(figures: EngineFigures) -> None:
    """Lets training start only when the engine's memory is free again.

    Raises:
        StageError: a GPU holds more than before the engine plus 300 MB; the message names who holds it.
    """
    held = [gpu for gpu in figures.gpu_memory if not gpu.given_back]
    if not held:
        return
    raise StageError(
        f"{'; '.join(map(_sentence, held))}. Training would run out of memory, so it does not start. End what should "
        "not be there (`kill PID`), or wait for it, and run the same command again: finished work is kept, and no "
        "engine starts for it."
    )


def describe(figures: EngineFigures) -> str:
    """Memory in use before the engine, after it, and the limit, in words."""
    if not figures.gpu_memory:
        return "no GPU seen"
    return "; ".join(
        f"GPU {gpu.gpu}: {_mb(gpu.used_before_bytes)} in use before, {_mb(gpu.used_after_bytes)} after, "
        f"limit {_mb(gpu.limit_bytes)}"
        for gpu in figures.gpu_memory
    )


def _compare(before: Gpu, now: Gpu) -> GpuMemory:
    # What this process, or another rank of it, took for itself meanwhile is not the engine's.
    own = sum(
        max(0, (used or 0) - (before.processes.get(pid) or 0)) for pid, used in now.processes.items() if _is_ours(pid)
    )
    holders = sorted(
        ((pid, used) for pid, used in now.processes.items() if not _is_ours(pid)), key=lambda one: -(one[1] or 0)
    )
    return GpuMemory(
        gpu=now.name,
        used_before_bytes=before.used_bytes,
        used_after_bytes=now.used_bytes,
        limit_bytes=before.used_bytes + SLACK_BYTES + own,
        holders=tuple(_holder(pid, used, before.processes) for pid, used in holders),
    )


def _is_ours(pid: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a process is this one, or another rank: a child of the same launcher."""
    if pid == os.getpid():
        return True
    if int(environ.get("LOCAL_WORLD_SIZE") or environ.get("WORLD_SIZE") or 1) <= 1:
        return False
    try:
        return psutil.Process(pid).ppid() == os.getppid()
    except psutil.Error:
        return False


def _holder(pid: int, used: int | None, before: Mapping[int, int | None]) -> str:
    try:
        name = psutil.Process(pid).name()
    except psutil.Error:
        name = "not visible from here: another container or user"
    since = ", there before the engine" if pid in before else ""
    return f"{pid} ({name}, {'?' if used is None else _mb(used)}{since})"


def _sentence(gpu: GpuMemory) -> str:
    holders = ", ".join(gpu.holders) or "nobody that the driver names; see nvidia-smi"
    return (
        f"GPU {gpu.gpu}: {_mb(gpu.used_after_bytes)} in use after the engine ended, "
        f"{_mb(gpu.used_before_bytes)} before it started, limit {_mb(gpu.limit_bytes)}; held by {holders}"
    )


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
