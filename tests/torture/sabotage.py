"""Inside a run: ``SABOTAGE`` breaks the product, to show that the campaign would notice. Nothing else knows of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any


def _drop_record() -> None:
    """A journal that is opened again forgets its last finished record."""
    from axolotl_safety.engines.journal import Journal

    opened = Journal.__init__

    def forgetful(self: Journal, path: Any, read_only: bool = False) -> None:
        if not read_only and path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            os.truncate(path, whole.rfind(b"\n", 0, -1) + 1)
        opened(self, path, read_only)

    Journal.__init__ = forgetful


def _double_record() -> None:
    """Every third record is written twice."""
    from axolotl_safety.engines.journal import Journal

    append = Journal.append

    def twice(self: Journal, kind: str, request_id: str, fields: Mapping[str, Any]) -> None:
        held = (kind, request_id) in self
        append(self, kind, request_id, fields)
        if not held and len(self) % 3 == 0:
            place, length = self._places[kind, request_id]
            self._end += os.pwrite(self._fd, os.pread(self._fd, length, place), self._end)

    Journal.append = twice


def _fail_open_guard() -> None:
    """What the guard leaves unsaid, or says unreadably, counts as safe."""
    from axolotl_safety.guards.model_guard import ModelGuard

    read = ModelGuard._read

    def lenient(self: ModelGuard, answer: Any) -> Any:
        verdict = read(self, answer)
        unclear = verdict.reason in ("unparsable", "failed", "truncated")
        return replace(verdict, safe=True, reason="") if unclear else verdict

    ModelGuard._read = lenient


MODES: dict[str, Callable[[], None]] = {
    "drop_record": _drop_record,
    "double_record": _double_record,
    "fail_open_guard": _fail_open_guard,
}


def install(mode: str) -> None:
    """Break the product in this process; nothing for an empty mode."""
    if mode:
        MODES[mode]()
