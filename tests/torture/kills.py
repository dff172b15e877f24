"""SIGKILL: at drawn instants of every phase, again during the resume, and from outside at any time."""

from __future__ import annotations

import signal
import time

from . import evidence
from .case import Case, Field
from .faults import PHASES
from .runs import Job, Run, ended, kill, wait_until


def draw_instant(field: Field, phase: str) -> dict:
    """A kind of instant that this phase has, and which of them."""
    kinds = sorted(what for where, what in field.counts if where == phase)
    what = field.dice.choice(kinds)
    return {"phase": phase, "what": what, "number": field.dice.randint(1, field.counts[phase, what])}


def at_instants(field: Field, points: int) -> list[Case]:
    """A fresh run per point, killed there; now and then its resume too; then it must end as if undisturbed."""
    cases = []
    for place, phase in enumerate(PHASES):
        case = Case(f"SIGKILL at drawn instants of {phase}")
        while case.kills.total() < points // len(PHASES) + (place < points % len(PHASES)):
            case.tries += 1
            work = field.folder()
            field.killed(case, Job(work, die=draw_instant(field, phase)))
            if field.dice.random() < 0.3:
                later = field.dice.choice(PHASES[place:])
                field.killed(case, Job(work, die=draw_instant(field, later)))
            field.resumed(case, Job(work))
            if case.failed and case.tries > points:
                break  # a phase that never dies would be tried for ever
        cases.append(case)
    return cases


def from_outside(field: Field, kills: int) -> Case:
    """One work folder, killed from outside at drawn times of drawn phases, until it may end."""
    case, work = Case("SIGKILL from outside at any time, one work folder"), field.folder()
    while case.kills.total() < kills and case.tries < 4 * kills:
        case.tries += 1
        before, wanted = evidence.read_records(work), field.dice.choice(PHASES)
        run = field.runs.start(Job(work, slow_seconds=0.003))
        _wait_for_phase(run, wanted)
        time.sleep(field.dice.uniform(0, 0.06))
        kill(run)
        field.runs.wait(run)
        field.book_killed(case, work, before, run)
    if case.kills.total() < kills:
        case.problems.append(f"only {case.kills.total()} of {kills} kills met a run that was still at work")
    field.resumed(case, Job(work))
    return case


def interruptions(field: Field) -> Case:
    """Ctrl-C and SIGTERM: an exit within five seconds with the command that resumes."""
    case = Case("SIGINT and SIGTERM")
    for number in (signal.SIGINT, signal.SIGTERM):
        case.tries += 1
        work = field.folder()
        run = field.runs.start(Job(work, slow_seconds=0.005))
        _wait_for_phase(run, field.dice.choice(PHASES[:3]))
        kill(run, number)
        field.runs.wait(run, 5)
        if run.code != 130 or "Resume with: axolotl train torture.yml" not in run.log:
            case.problems.append(f"signal {number}: exit code {run.code}, {run.log[-200:]}")
        else:
            case.stops.append("interrupted; finished work is kept. Resume with: axolotl train torture.yml")
        field.resumed(case, Job(work))
    return case


def _wait_for_phase(run: Run, phase: str) -> None:
    wait_until(lambda: run.phase == phase or ended(run), 30)
