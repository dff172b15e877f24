"""The campaign's side of `runner`: start runs, kill them, wait for them, read what they left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from axolotl_safety.commands.demo import OFFLINE

from .scenario import Scenario

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        work_dir: of the stage.
        die: phase, instant and number at which the run kills itself.
        full: what finds no space from which number on.
        engine: ``scripted`` in the run's process, or ``worker``: the product's engine with a scripted worker.
        slow_seconds: how long an instant takes.
        count: count all instants.
        environ: environment variables.
        powerless: without the power of root to write anywhere.
        small_disk: the journal's write from which on a real file system, mounted for this run alone, is full.
        unreaped: stays a zombie when it dies, until it is waited for.
    """

    work_dir: Path
    die: dict[str, Any] | None = None
    full: tuple[str, int] | None = None
    engine: str = "scripted"
    slow_seconds: float = 0.0
    count: bool = False
    environ: dict[str, str] = field(default_factory=dict)
    powerless: bool = False
    small_disk: int = 0
    unreaped: bool = False


@dataclass
class Run:
    """A run that was started."""

    pid: int
    evidence: Path
    code: int | None = None
    seconds: float = 0.0

    @property
    def phase(self) -> str:
        """What it is or was doing."""
        try:
            return (self.evidence / "phase").read_text().strip() or "preparation"
        except OSError:
            return "preparation"

    @property
    def log(self) -> str:
        """Everything it said."""
        try:
            return (self.evidence / "output.log").read_text(errors="replace")
        except OSError:
            return ""

    @property
    def stops(self) -> list[str]:
        """Why it, or a part of it, ended in an error."""
        return [json.loads(line[6:]) for line in self.log.splitlines() if line.startswith("STOP: ")]

    @property
    def made(self) -> list[str]:
        """Ids of the results that its engine delivered."""
        try:
            return (self.evidence / "made").read_text().split()
        except OSError:
            return []


class Runs:
    """Starts runs through the forking runner.

    Args:
        scenario: what they run.
        sabotage: handed through to them.
    """

    def __init__(self, scenario: Scenario, sabotage: str = ""):
        self.sabotage = sabotage
        self._scenario = scenario
        self._count = 0
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        environ = os.environ | OFFLINE | {"OMP_NUM_THREADS": "1"}
        self._log = open(scenario.folder / "runner.log", "wb")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "torture.runner", str(scenario.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environ | {"PYTHONPATH": paths},
            cwd=scenario.folder,
        )
        if self._server.stdout is None or self._server.stdout.readline() != '"ready"\n':
            raise RuntimeError(f"the runner did not start: {(scenario.folder / 'runner.log').read_text()[-2000:]}")

    def start(self, job: Job) -> Run:
        """Start a run."""
        self._count += 1
        evidence = self._scenario.folder / "evidence" / f"run-{self._count}"
        evidence.mkdir(parents=True)
        told = asdict(job) | {
            "config": self._scenario.config(job.work_dir),
            "script": str(self._scenario.script),
            "evidence": str(evidence),
            "sabotage": self.sabotage,
            "work_dir": str(job.work_dir),
        }
        return Run(self._ask({"start": told}), evidence)

    def wait(self, run: Run, seconds: float = PATIENCE_SECONDS) -> Run:
        """Wait for the end; a run that does not end is killed, and its code stays None."""
        began = time.monotonic()
        run.code = self._ask({"wait": run.pid, "seconds": seconds})
        run.seconds = time.monotonic() - began
        if run.code is None:
            kill(run)
            self._ask({"wait": run.pid, "seconds": 10})
        return run

    def finish(self, job: Job) -> Run:
        """Start a run and wait for its end."""
        return self.wait(self.start(job))

    def close(self) -> None:
        """End the runner."""
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()
        self._log.close()

    def _ask(self, message: dict[str, Any]) -> Any:
        self._server.stdin.write(json.dumps(message) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def kill(run: Run, number: int = signal.SIGKILL) -> None:
    """Send a signal to the run's process alone."""
    try:
        os.kill(run.pid, number)
    except ProcessLookupError:
        pass


def ended(run: Run) -> bool:
    """Whether it is gone, or waits to be reaped."""
    try:
        return Path(f"/proc/{run.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
