"""One line of the campaign's table, and what every case is judged by."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import evidence
from .evidence import Records, Reference
from .runs import Job, Run, Runs
from .scenario import Scenario
from .script import BAD_THINGS


@dataclass
class Case:
    """What was tried under one name, and what came of it.

    Attributes:
        tries: how often.
        kills: SIGKILLs by the phase that they met.
        lost, doubled: records.
        compared, identical: resumed outputs held against the undisturbed run's, and how many were the same bytes.
        unverified: rows trained on without a safe verdict.
        stops: the messages of runs that stopped as they should.
        problems: what did not hold.
    """

    name: str
    tries: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    compared: int = 0
    identical: int = 0
    unverified: int = 0
    stops: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether anything did not hold."""
        return bool(self.lost or self.doubled or self.unverified or self.problems) or self.identical < self.compared


@dataclass
class Field:
    """Where the cases take place.

    Attributes:
        base: where the work folders lie.
        runs: starts runs.
        scenario: what they run.
        dice: of this seed.
        reference: what an undisturbed run left.
        finished: its work folder.
        counts: how often each instant of each phase came in it.
    """

    base: Path
    runs: Runs
    scenario: Scenario
    dice: random.Random
    reference: Reference
    finished: Path
    counts: dict[tuple[str, str], int]
    _folders: int = 0

    def folder(self, name: str = "work") -> Path:
        """A work folder that is not there yet."""
        self._folders += 1
        return self.base / f"case-{self._folders}" / name

    def copy_finished(self) -> Path:
        """A work folder with the journals of a finished run, and nothing else."""
        work = self.folder()
        shutil.copytree(self.finished / "journal", work / "journal")
        return work

    def killed(self, case: Case, job: Job) -> Run:
        """A run that is to kill itself; whether it did is in `Case.kills`."""
        before = evidence.read_records(job.work_dir)
        run = self.runs.finish(job)
        self.book_killed(case, job.work_dir, before, run)
        return run

    def book_killed(self, case: Case, work_dir: Path, before: Records, run: Run) -> None:
        """Book what a run that was killed did to what stood there before it."""
        if run.code == -9:
            case.kills[run.phase] += 1
        elif run.code != 0:
            case.problems.append(f"exit code {run.code} instead of a death or an end: {_tail(run)}")
        self._book(case, before, run, evidence.read_records(work_dir))

    def stopped(self, case: Case, job: Job, words: Sequence[str]) -> Run:
        """A run that must stop and say why: its message holds these words."""
        before = evidence.read_records(job.work_dir)
        run = self.runs.finish(job)
        self.book_stop(case, run, words)
        self._book(case, before, run, evidence.read_records(job.work_dir))
        return run

    def book_stop(self, case: Case, run: Run, words: Sequence[str]) -> None:
        """Book a stop: an exit code of its own, and a message that says what happened and what to do."""
        message = run.stops[-1] if run.stops else _tail(run)
        missing = [word for word in words if word not in message]
        if run.code != 1 or missing:
            said = f"; lacking {missing}" if missing else ""
            case.problems.append(f"no clear stop (exit code {run.code}{said}): {message}")
        else:
            case.stops.append(message)

    def resumed(self, case: Case, job: Job) -> Run:
        """A run that must come to its end with the undisturbed run's bytes."""
        before = evidence.read_records(job.work_dir)
        run = self.runs.finish(job)
        self.book_end(case, job.work_dir, before, run)
        return run

    def book_end(self, case: Case, work_dir: Path, before: Records, run: Run) -> None:
        """Book an end: nothing lost, nothing doubled, nothing unverified, the same bytes."""
        after = evidence.read_records(work_dir)
        self._book(case, before, run, after)
        case.compared += 1
        if run.code != 0:
            case.problems.append(f"exit code {run.code} of a run that should end well: {_tail(run)}")
            return
        different = self.reference.differences(after, evidence.read_output(work_dir))
        case.identical += not different
        if different:
            case.problems.append(f"not the bytes of the undisturbed run: {', '.join(different[:4])}")
        case.unverified += evidence.unverified(work_dir, self.marks())

    def marks(self) -> list[list[int]]:
        """Ids of the words by which the guard's script knows the rows that it never calls safe."""
        ids = json.loads(self.scenario.script.read_text())["target"]
        return [ids[" " + thing.split()[0]] for thing in BAD_THINGS]

    @staticmethod
    def _book(case: Case, before: Records, run: Run, after: Records) -> None:
        case.lost += evidence.lost(before, run.made, after)
        case.doubled += evidence.doubled(before, run.made, after)


def _tail(run: Run) -> str:
    return " | ".join(run.log.strip().splitlines()[-3:])[-400:] or "(silence)"
