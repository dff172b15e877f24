"""What a child process uses: memory of the process, memory of the GPUs, members of its group."""

from __future__ import annotations

import os
import signal
import time

from .base import EngineFigures


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


def gpu_used_bytes() -> int | None:
    """Memory in use on all GPUs of this machine in bytes, by NVML; None without NVML or without a GPU."""
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            return sum(int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles) if handles else None
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # NVML is a courtesy: whatever it raises, the run goes on without the figure
        return None


def gpu_used_bytes_settled(before: int | None, slack: int = 300 << 20, seconds: float = 5.0) -> int | None:
    """Memory in use after an exit in bytes: the driver frees with a delay, so wait for ``before + slack``."""
    deadline = time.monotonic() + seconds
    while (used := gpu_used_bytes()) is not None and before is not None:
        if used <= before + slack or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return used


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


def describe_gpu(figures: EngineFigures) -> str:
    """Used GPU memory before the engine and after it, in words."""
    before, after = figures.gpu_used_before_bytes, figures.gpu_used_after_bytes
    if before is None or after is None:
        return "no GPU seen"
    return f"GPU memory in use {before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after"
