"""Peaks of memory: of one piece of work on this process's device, and of a whole GPU while other processes run."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from axolotl_safety.engines.gpu.gpus import Gpu, read_gpus

# Freed tensors go back to the system at once; a heap that keeps them would hide what is used again.
HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
OUT_OF_MEMORY = "out of memory"
_POLL_SECONDS = 0.05
Found = TypeVar("Found")


def start_peak(device: str) -> int:
    """Let the peak begin anew; returns the bytes in use now: allocated on a GPU, else resident in this process."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    return before


def peak(device: str) -> int:
    """Bytes at the highest point since `start_peak`."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def peak_above(work: Callable[[], Any], device: str) -> int:
    """Bytes at the peak of ``work`` above what is in use now."""
    before = start_peak(device)
    work()
    return peak(device) - before


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))


def seconds_of(work: Callable[[], Any], device: str) -> float:
    """Wall time of ``work``, its kernels finished."""
    wait = _wait(device)
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def _wait(device: str) -> Callable[[], Any]:
    if device != "cuda":
        return lambda: None
    import torch

    return torch.cuda.synchronize


@dataclass(frozen=True)
class Cost:
    """Of one piece of work; None where memory did not suffice."""

    peak_bytes: int | None = None
    seconds: float | None = None


def cost_of(work: Callable[[], Any], device: str, repeats: int = 3) -> Cost:
    """Peak above what is in use before, and the median time of further runs."""

    def measured() -> Cost:
        above = peak_above(work, device)
        times = sorted(seconds_of(work, device) for _ in range(repeats))
        return Cost(above, times[repeats // 2])

    return where_it_fits(measured) or Cost()


def where_it_fits(work: Callable[[], Found]) -> Found | None:
    """What ``work`` gives, or None where memory does not suffice for it."""
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    release()  # outside of the handler, whose traceback keeps the tensors alive
    return None


def release() -> None:
    """Give back what nobody holds any more."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def is_out_of_memory(error: object) -> bool:
    """Whether an error, or the text of one, says that memory ran out."""
    words = ("out of memory", "OutOfMemoryError", "MemoryError", "can't allocate memory", "ALLOC_FAILED")
    return any(word in f"{type(error).__name__} {error}" for word in words)


class GpuPeak:
    """The most that is in use of the first visible GPU, by whomever, while a block runs: by NVML, from a thread.

    Attributes:
        used_bytes: None without a GPU.
    """

    used_bytes: int | None = None

    def __init__(self, read: Callable[[], tuple[Gpu, ...]] = read_gpus) -> None:
        """Keep how a GPU is read."""
        self._read, self._over = read, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while gpus := self._read():
            self.used_bytes = max(self.used_bytes or 0, gpus[0].used_bytes)
            if self._over.wait(_POLL_SECONDS):
                return

    def __enter__(self) -> GpuPeak:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look once more, and end."""
        self._over.set()
        self._thread.join()
