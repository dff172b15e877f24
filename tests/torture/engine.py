"""The product's own engine with a scripted worker process: the worker killed, and its parent killed above it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from . import evidence
from .case import Case, Field
from .runs import Job, Run, ended, kill, wait_until

_GONE_WITHIN_SECONDS = 5.0


def workers(work: Path) -> list[int]:
    """Worker processes of a work folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            dead = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
        except OSError:
            continue
        if os.fsencode(work) in command and b"--backend" in command and not dead:
            found.append(int(entry.name))
    return found


def killed_workers(field: Field, kills: int) -> Case:
    """The engine's process is killed again and again; the run goes on, makes nothing twice, and ends as undisturbed."""
    case, work = Case("the engine's process killed during one run"), field.folder()
    case.tries += 1
    run = field.runs.start(Job(work, engine="worker"))
    for _ in range(kills):
        # Not before it has finished something: three deaths in a row without a result end the run, as they should.
        seen = len(run.made)
        wait_until(lambda seen=seen: len(run.made) > seen + 2 or ended(run), 60)
        time.sleep(field.dice.uniform(0, 0.05))
        for pid in workers(work):
            case.kills[run.phase] += 1
            os.kill(pid, signal.SIGKILL)
    field.runs.wait(run)
    if case.kills.total() < kills:
        case.problems.append(f"only {case.kills.total()} of {kills} kills met a worker")
    field.book_end(case, work, evidence.Records({}, 0), run)
    return case


def killed_parents(field: Field, kills: int) -> Case:
    """The run is killed and its engine must go by itself; then everything ends as if undisturbed."""
    case, work = Case("the run killed above its engine's process"), field.folder()
    for _ in range(kills):
        case.tries += 1
        before = evidence.read_records(work)
        run: Run = field.runs.start(Job(work, engine="worker"))
        wait_until(lambda run=run: len(run.made) > 2 or ended(run), 60)
        time.sleep(field.dice.uniform(0, 0.1))
        kill(run)
        field.runs.wait(run)
        if not wait_until(lambda: not workers(work), _GONE_WITHIN_SECONDS):
            case.problems.append(f"an engine outlived its run by more than {_GONE_WITHIN_SECONDS:.0f} s")
        field.book_killed(case, work, before, run)
    field.resumed(case, Job(work, engine="worker"))
    return case
