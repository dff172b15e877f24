"""Inside a run: in which phase each row is, and the run's death by SIGKILL at a named instant of that phase.

An instant is a line of the product's code, or a moment of a write that no line of it shows: before it, in the middle of
a journal line, between the write and its flush, in the middle of a file, around a rename.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

# Phase by the function that begins it, where it is looked up.
_BEGINS = {
    "proposal": ("dgr.attempts", "recover.attempts", "thinksafe.attempts"),
    "guard": ("candidates.judge", "dgr.judge"),
    "scoring": ("dgr.scored", "recover.scored", "thinksafe.scored"),
    "choice": tuple(f"{method}.{name}" for method in ("dgr", "recover", "thinksafe") for name in ("choose", "outcome")),
    "hand-off": ("stage._deliver",),
}
PHASES = tuple(_BEGINS)
# Kinds of instants besides lines; an undisturbed run that never meets one was not watched there.
WRITES = (
    "before a line",
    "mid-line",
    "between write and flush",
    "half a file",
    "half a parquet",
    "half a train folder",
)
_real_pwrite, _real_fsync, _real_replace = os.pwrite, os.fsync, os.replace


class Watch:
    """Knows the phase, counts instants, and kills the process at the one it was told.

    Args:
        folder: where the phase and the death are noted for those outside.
        die: ``{"phase", "what", "number"}``, or None.
        slow_seconds: how long an instant of writing or choosing takes, so that a kill from outside meets it.
    """

    def __init__(self, folder: Path, die: dict[str, Any] | None, slow_seconds: float):
        self.counts: Counter[tuple[str, str]] = Counter()
        self._folder, self._die, self._slow_seconds = folder, die, slow_seconds
        self._phase = ContextVar("phase", default="preparation")  # every row has its own: they are under way together
        self._noted = ""
        self._fd = os.open(folder / "phase", os.O_RDWR | os.O_CREAT, 0o600)

    @property
    def phase(self) -> str:
        """What the row is at whose turn it is."""
        return self._phase.get()

    def during(self, phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, as a phase."""

        @contextmanager
        def entered() -> Iterator[None]:
            before = self._phase.set(phase)
            try:
                if phase == "choice":
                    self.instant("choosing")
                yield
            finally:
                self._phase.reset(before)

        def phased(*arguments: Any, **named: Any) -> Any:
            with entered():
                return work(*arguments, **named)

        async def awaited(*arguments: Any, **named: Any) -> Any:
            with entered():
                return await work(*arguments, **named)

        return awaited if inspect.iscoroutinefunction(work) else phased

    def instant(self, what: str, first: Callable[[], Any] | None = None) -> None:
        """Something can happen here; ``first`` is done before the death."""
        key = (self.phase, what)
        if self._noted != self.phase:
            self._noted = self.phase
            _real_pwrite(self._fd, self._noted.ljust(16).encode(), 0)
        self.counts[key] += 1
        if self._slow_seconds and what != "line":
            time.sleep(self._slow_seconds)
        die = self._die
        if die and key == (die["phase"], die["what"]) and self.counts[key] == die["number"]:
            sys.settrace(None)
            if first:
                first()
            (self._folder / "death.json").write_text(json.dumps(die))
            os.kill(os.getpid(), signal.SIGKILL)

    def note_counts(self) -> None:
        """Leave the counts for those outside."""
        found = [[phase, what, count] for (phase, what), count in self.counts.items()]
        (self._folder / "counts.json").write_text(json.dumps(found))


def install(watch: Watch, lines: bool) -> None:
    """Put the watch on phases and writes, and with ``lines`` on every line of the product's code."""
    import datasets
    import pyarrow.parquet as parquet

    import axolotl_safety
    from axolotl_safety.methods import candidates, dgr, recover, thinksafe
    from axolotl_safety.pipeline import stage
    from axolotl_safety.util import files as atomic

    modules = {"candidates": candidates, "dgr": dgr, "recover": recover, "stage": stage, "thinksafe": thinksafe}
    for phase, places in _BEGINS.items():
        for module, name in (place.split(".") for place in places):
            setattr(modules[module], name, watch.during(phase, getattr(modules[module], name)))
    os.pwrite = _watched_pwrite(watch)
    os.fsync = _around(watch, _real_fsync, "fsync")
    os.replace = _around(watch, _real_replace, "rename")
    atomic.open = lambda *arguments, **named: _HalfFile(watch, open(*arguments, **named))
    parquet.write_table = _watched_parquet(watch, parquet.write_table)
    datasets.Dataset.save_to_disk = _watched_save(watch, datasets.Dataset.save_to_disk)
    if lines:
        _trace_lines(watch, str(Path(axolotl_safety.__file__).parent))


def _watched_pwrite(watch: Watch) -> Callable[..., int]:
    def pwrite(fd: int, data: bytes, place: int) -> int:
        watch.instant("before a line")
        cut = 1 + watch.counts[watch.phase, "before a line"] * 37 % max(1, len(data) - 1)
        watch.instant("mid-line", lambda: _real_pwrite(fd, data[:cut], place))
        written = _real_pwrite(fd, data, place)
        watch.instant("between write and flush")
        return written

    return pwrite


def _around(watch: Watch, work: Callable[..., Any], name: str) -> Callable[..., Any]:
    def watched(*arguments: Any) -> Any:
        watch.instant(f"before {name}")
        result = work(*arguments)
        watch.instant(f"after {name}")
        return result

    return watched


class _HalfFile:
    """A file whose write may be the last thing that its process does, half done."""

    def __init__(self, watch: Watch, file: Any):
        self._watch, self._file = watch, file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _HalfFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def write(self, data: bytes) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._watch.instant("half a file", half)
        return self._file.write(data)


def _watched_parquet(watch: Watch, work: Callable[..., Any]) -> Callable[..., Any]:
    def write_table(table: Any, file: Any, *arguments: Any, **named: Any) -> Any:
        def half() -> None:
            work(table, file, *arguments, **named)
            file.truncate(file.tell() // 2)

        watch.instant("half a parquet", half)
        return work(table, file, *arguments, **named)

    return write_table


def _watched_save(watch: Watch, work: Callable[..., Any]) -> Callable[..., Any]:
    def save_to_disk(table: Any, path: str, *arguments: Any, **named: Any) -> Any:
        def half() -> None:
            work(table, path, *arguments, **named)
            (arrow,) = Path(path).glob("*.arrow")
            os.truncate(arrow, arrow.stat().st_size // 2)
            (Path(path) / "state.json").unlink()

        watch.instant("half a train folder", half)
        return work(table, path, *arguments, **named)

    return save_to_disk


def _trace_lines(watch: Watch, root: str) -> None:
    def inside(frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            watch.instant("line")
        return inside

    sys.settrace(lambda frame, event, argument: inside if frame.f_code.co_filename.startswith(root) else None)
