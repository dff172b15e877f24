"""Runs data stages in processes of their own, to be killed: imports once, then forks a run per job.

Speaks JSON lines on standard input and output: ``{"start": job}`` answers with a pid, ``{"wait": pid, "seconds": s}``
with its exit code, or null where it is still running then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import tiny

from axolotl_safety.commands.report import page  # noqa: F401
from axolotl_safety.engines.base import Completion, EngineFigures, Failure, Request, Result, Score, ScoreRequest
from axolotl_safety.engines.gpu import placement  # noqa: F401
from axolotl_safety.engines.local import engine as client
from axolotl_safety.pipeline import stage  # noqa: F401  imported before the forks
from axolotl_safety.plugin import SafetyPlugin

from . import faults, full_disk, sabotage
from .script import Script, draw, texts

WORKER = Path(__file__).with_name("worker.py")


def make_models(folder: Path) -> None:
    """A target and a guard with real tokenizers, and the ids of everything that they will say."""
    made = {}
    for name, style in (("target", "r1"), ("guard", "qwen3")):
        tiny.make_model(folder / name, style)
        tokenizer = tiny.make_tokenizer(style)
        made[name] = {text: tokenizer.encode(text, add_special_tokens=False) for text in texts(name)}
        made[name]["end"] = [tokenizer.eos_token_id]
    (folder / "script.json").write_text(json.dumps(made))


class Made:
    """Notes every result that an engine delivers, before the product sees it."""

    def __init__(self, path: Path):
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, result: Result) -> Result:
        """The same result."""
        with full_disk.unlimited():
            os.write(self._fd, f"{result.request_id}\n".encode())
        return result


class ScriptedEngine:
    """Stands where the worker engine does, and takes the same arguments."""

    def __init__(self, script: Script, made: Made):
        self.figures = EngineFigures()
        self._script, self._made = script, made

    def window(self, model: str) -> int:
        """A few at once."""
        return 16

    async def answer(self, request: Request | ScoreRequest) -> Result:
        """A result, in an order of the engine's own."""
        self.figures.starts = 1
        for _ in range(draw(request.request_id, 5)):
            await asyncio.sleep(0)
        return self._made.note(self._say(request))

    async def close(self, at_once: bool = False) -> None:
        """Nothing is held."""

    def _say(self, request: Request | ScoreRequest) -> Result:
        name, prompt = request.request_id, request.prompt_token_ids
        if isinstance(request, ScoreRequest):
            response = request.response_token_ids
            return Score(name, self._script.score(prompt, response), len(response))
        said = self._script.say(request.model, name, prompt)
        if said.finish_reason == "failure":
            return Failure(name, "poisoned", "scripted")
        return Completion(name, tuple(said.token_ids), said.finish_reason, -1.0)


def _put_engine(job: dict[str, Any], made: Made) -> None:
    """Scripted in this process, or the real engine with a scripted worker."""
    if job["engine"] == "scripted":
        script = Script(json.loads(Path(job["script"]).read_text()))
        client.WorkerEngine = lambda *_, **__: ScriptedEngine(script, made)
        return

    class Noted(client.WorkerEngine):
        """The real one, noting what it delivers."""

        def __init__(self, *arguments: Any, **named: Any):
            super().__init__(*arguments, **named | {"worker_path": WORKER, "python": sys.executable, "batch_size": 4})

        async def answer(self, request: Request | ScoreRequest) -> Result:
            return made.note(await super().answer(request))

    os.environ["TORTURE_SCRIPT"] = job["script"]
    client.WorkerEngine = Noted


def _run_stage(config: dict[str, Any]) -> None:
    from axolotl.utils.dict import DictDefault

    cfg = DictDefault(json.loads(json.dumps(config)))
    plugin = SafetyPlugin()
    plugin.register(cfg)
    plugin.load_datasets(DictDefault(cfg.to_dict()))


def _on_small_disk(job: dict[str, Any]) -> None:
    """A stage on a file system of its own, which another file fills up, and again without it; copies are kept."""
    work, kept = Path(job["config"]["safety"]["work_dir"]), Path(job["evidence"])
    work.mkdir(parents=True, exist_ok=True)
    if not full_disk.mount_small(work):
        (kept / "not_tried").touch()
        return
    full_disk.fill_up(work, job["small_disk"])
    try:
        _run_stage(job["config"])
    except Exception as error:
        _tell(error)
    shutil.copytree(work / "journal", kept / "before" / "journal")
    shutil.copy(kept / "made", kept / "made_before")
    full_disk.make_room(work)
    _run_stage(job["config"])
    shutil.copytree(work, kept / "after")


def _tell(error: BaseException) -> None:
    print("STOP: " + json.dumps(f"{type(error).__name__}: {error}"), file=sys.stderr, flush=True)


def _perform(job: dict[str, Any]) -> None:
    folder = Path(job["evidence"])
    os.setsid()
    tiny.own_progress_lock()
    for fd in (1, 2):
        os.dup2(os.open(folder / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), fd)
    sys.stdout, sys.stderr = full_disk.Log(sys.stdout), full_disk.Log(sys.stderr)
    logging.basicConfig(level=logging.INFO)
    os.environ.update(job["environ"])
    _put_engine(job, Made(folder / "made"))
    sabotage.install(job["sabotage"])
    watch = faults.Watch(folder, job["die"], job["slow_seconds"])
    faults.install(watch, job["count"] or bool(job["die"] and job["die"]["what"] == "line"))
    if job["full"]:
        full_disk.install(*job["full"])
    if job["powerless"]:
        full_disk.drop_power()
    if job["small_disk"]:
        _on_small_disk(job)
    else:
        _run_stage(job["config"])
    if job["count"]:
        sys.settrace(None)
        watch.note_counts()


def _guarded(work: Callable[[dict[str, Any]], None], job: dict[str, Any]) -> int:
    """Exit code of a run, as the interpreter would give it."""
    try:
        work(job)
        return 0
    except SystemExit as ending:
        return int(ending.code or 0)
    except BaseException as error:
        traceback.print_exc()
        _tell(error)
        return 1


class Server:
    """Forks runs and reaps them, as a launcher does."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._codes: dict[int, int | None] = {}
        self._left: set[int] = set()  # not to be reaped before they are waited for
        self._out = os.dup(1)  # libraries print, and what they print to fd 1 is no answer
        os.dup2(2, 1)
        self._wakeup, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup)

    def start(self, job: dict[str, Any]) -> int:
        """Fork a run."""
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = _guarded(_perform, job)
            sys.stderr.flush()
            os._exit(code)
        self._codes[pid] = None
        if job["unreaped"]:
            self._left.add(pid)
        return pid

    def wait(self, pid: int, seconds: float) -> int | None:
        """Exit code of a run, None if it is still running."""
        self._left.discard(pid)
        deadline = time.monotonic() + seconds
        self._reap()
        while self._codes[pid] is None and time.monotonic() < deadline:
            self._pause([], max(0.0, deadline - time.monotonic()))
        return self._codes[pid]

    def serve(self) -> None:
        """Answer until the standard input ends."""
        tiny.own_progress_lock()
        make_models(self._folder)
        self._say("ready")
        rest = b""
        while True:
            if 0 not in self._pause([0], None):
                continue
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                asked = json.loads(line)
                answer = self.start(asked["start"]) if "start" in asked else self.wait(asked["wait"], asked["seconds"])
                self._say(answer)

    def _say(self, answer: Any) -> None:
        os.write(self._out, json.dumps(answer).encode() + b"\n")

    def _pause(self, fds: list[int], seconds: float | None) -> list[int]:
        ready, _, _ = select.select([*fds, self._wakeup], [], [], seconds)
        if self._wakeup in ready:
            os.read(self._wakeup, 1 << 12)
            self._reap()
        return ready

    def _reap(self) -> None:
        for pid, code in self._codes.items():
            if code is None and pid not in self._left:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self._codes[pid] = os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    Server(Path(sys.argv[1])).serve()
