"""What a child process uses: its memory, the members of its group."""

from __future__ import annotations

import os
import signal


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
