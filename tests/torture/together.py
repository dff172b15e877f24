"""Several processes: two runs on one folder, locks that the dead left, and the ranks of one launch."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from . import evidence
from .case import Case, Field
from .runs import Job, Run, kill, wait_until

_NOBODY = 2**22 - 7  # near the largest process id: nobody has it
WITHIN_SECONDS = 10.0


def two_at_once(field: Field, tries: int) -> Case:
    """Two processes on one folder: the second waits, makes nothing again, and leaves the same bytes.

    In every second try the one that works is killed, and the other one must take over.
    """
    case = Case("two processes on one work_dir")
    for number in range(tries):
        case.tries += 1
        work = field.folder()
        runs = [field.runs.start(Job(work, slow_seconds=0.001)) for _ in range(2)]
        held = evidence.read_records(work)
        if number % 2:
            wait_until(lambda runs=runs: any(run.made for run in runs), 30)
            time.sleep(field.dice.uniform(0, 0.1))
            worker = next(run for run in runs if run.made)
            kill(worker)
            field.runs.wait(worker)
            case.kills[worker.phase] += worker.code == -9
            runs.remove(worker)
            # The other one may have begun: what it writes is made by it, so only the dead one's results count here.
            now, theirs = evidence.read_records(work), set(worker.made)
            held = evidence.Records({key: line for key, line in now.lines.items() if key[2] in theirs}, now.doubled)
        for run in runs:
            field.runs.wait(run)
            if run.code != 0:
                case.problems.append(f"exit code {run.code}: {run.log[-300:]}")
        made = [name for run in runs for name in run.made]
        after = evidence.read_records(work)
        case.lost += evidence.lost(held, made, after)
        case.doubled += evidence.doubled(held, made, after)
        field.resumed(case, Job(work))
    return case


def left_locks(field: Field) -> Case:
    """Locks and words of a dead process, of another host, of an earlier launch: nobody waits for them."""
    case = Case("stale locks and words, of a dead pid and of another host")
    here, now = socket.gethostname(), time.time()
    for host in (here, "another-host"):
        case.tries += 1
        work = field.folder()
        work.mkdir(parents=True)
        (work / ".lock").write_text(f"{_NOBODY}\n{host}\n")
        began = time.monotonic()
        field.resumed(case, Job(work))
        if time.monotonic() - began > WITHIN_SECONDS:
            case.problems.append(f"a lock of {host} held the run up for {time.monotonic() - began:.0f} s")
    words = {
        "a dead pid's, from an earlier launch": {"host": here, "time": now - 3600, "beat": now - 3600},
        "another host's, from an earlier launch": {"host": "another-host", "time": now - 3600, "beat": now - 3600},
    }
    for what, word in words.items():
        case.tries += 1
        work = field.folder()
        _leave_word(field, work, {"state": "running", "pid": _NOBODY, **word})
        ranks = [field.runs.start(_rank(work, rank)) for rank in (0, 1)]
        for rank in ranks:
            field.runs.wait(rank, 60)
        if any(rank.code != 0 for rank in ranks):
            case.problems.append(f"{what} word: exit codes {[rank.code for rank in ranks]}: {ranks[1].log[-200:]}")
        field.resumed(case, Job(work))
    for host in (here, "another-host"):  # of this launch, and silent for two minutes
        case.tries += 1
        work = field.folder()
        _leave_word(
            field, work, {"state": "running", "pid": _NOBODY, "host": host, "time": now + 60, "beat": now - 120}
        )
        began = time.monotonic()
        follower = field.runs.wait(field.runs.start(_rank(work, 1)), 30)
        field.book_stop(case, follower, ["died during the data stage", host])
        if time.monotonic() - began > WITHIN_SECONDS:
            case.problems.append(f"the silence of {host} was noticed after {time.monotonic() - began:.0f} s")
    return case


def leaders(field: Field) -> Case:
    """Rank 0 ends well, fails, is killed, and is killed with nobody to reap it; what ranks 1 and 2 see, and when."""
    case = Case("leader done, failed, killed, killed and not reaped; two followers")
    ends: dict[str, tuple[dict, Callable[[Run], None], str]] = {
        "done": ({}, lambda run: None, ""),
        "failed": ({"full": ("journal", 9)}, lambda run: None, "the data stage failed on rank 0"),
        "killed": ({}, kill, "died during the data stage"),
        "zombie": ({"unreaped": True}, kill, "died during the data stage"),
    }
    for what, (named, end, words) in ends.items():
        case.tries += 1
        work = field.folder()
        before = evidence.read_records(work)
        followers = [field.runs.start(_rank(work, rank)) for rank in (1, 2)]
        leader = field.runs.start(_rank(work, 0, slow_seconds=0.002, **named))
        wait_until(lambda leader=leader: len(leader.made) > 5, 30)
        end(leader)
        if what == "zombie":
            ended_at = time.monotonic()
        else:
            field.runs.wait(leader)
            ended_at = time.monotonic()
        for follower in followers:
            field.runs.wait(follower, 90)
        late = time.monotonic() - ended_at
        if what == "zombie":
            field.runs.wait(leader)
        if what == "done":
            if any(run.code != 0 for run in (leader, *followers)):
                case.problems.append(f"exit codes {[run.code for run in (leader, *followers)]}")
        else:
            case.kills[leader.phase] += leader.code == -9
            for follower in followers:
                field.book_stop(case, follower, [words])
            if late > WITHIN_SECONDS:
                case.problems.append(f"leader {what}: its followers noticed after {late:.1f} s")
        if any(follower.made for follower in followers):
            case.problems.append("a follower started an engine of its own")
        case.lost += evidence.lost(before, leader.made, evidence.read_records(work))
        field.resumed(case, Job(work))
    return case


def _rank(work: Path, rank: int, **named: object) -> Job:
    launch = {"TORCHELASTIC_RUN_ID": "torture", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    environ = launch | {"RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
    return Job(work, environ=environ, **named)


def _leave_word(field: Field, work: Path, word: dict) -> None:
    """Put a status file where the ranks of such a launch look; its name is learnt from a leader of that launch."""
    scout = field.runs.start(_rank(work, 0, slow_seconds=0.001))
    wait_until(lambda: bool(list((work / "ranks").glob("*.json"))), 30)
    (path,) = (work / "ranks").glob("*.json")
    kill(scout)
    field.runs.wait(scout)
    beat = word.pop("beat")
    path.write_text(json.dumps(word))
    os.utime(path, (beat, beat))
