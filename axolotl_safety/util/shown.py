"""Our errors on the screen in Axolotl's commands: the sentence alone, once, and last; the traceback in the debug log.

Axolotl lets errors run to the end of the process, so Python would print a page of frames that say nothing to who wrote
the YAML. Below a launcher that page is followed by the launcher's own.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from .terminal import PlainError, presentable

TRACEBACK = "AXOLOTL_SAFETY_TRACEBACK"  # set to 1: with the traceback, as Python prints it
_FIRST_RANK_SECONDS = 5.0  # that another rank leaves the first one to say the same
_ELASTIC_FILE = "TORCHELASTIC_ERROR_FILE"  # where torchrun reads what it shows as the root cause


def show_plainly() -> None:
    """Have what ends this process shown so, if it is an error of ours; the same when called again."""
    before = sys.excepthook
    if getattr(before, "shows_plainly", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sentence = None if os.environ.get(TRACEBACK) == "1" else sentence_of(error)
        if sentence is None:
            before(kind, error, trace)
        else:
            _to_debug_log("".join(traceback.format_exception(kind, error, trace)))
            _show(sentence)

    hook.shows_plainly = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def sentence_of(error: BaseException | None) -> str | None:
    """What an error of ours says, also where it is the cause of another's or pydantic's word on our section; else
    None."""
    while error is not None:
        if isinstance(error, PlainError):
            return str(error)
        if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):
            return _of_section(error)
        error = error.__cause__
    return None


def _of_section(error: Any) -> str | None:
    faults = error.errors()
    if not faults or any(fault["loc"][:1] != ("safety",) for fault in faults):
        return None  # Axolotl's own keys are Axolotl's to explain
    lines = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (got {fault['input']!r})" for fault in faults]
    return presentable("the YAML's safety section is not valid:\n  " + "\n  ".join(lines))


def _show(sentence: str) -> None:
    elastic = os.environ.get(_ELASTIC_FILE)
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_FIRST_RANK_SECONDS)  # torchrun ends us as soon as the first has ended
    if elastic:  # which torchrun shows last; what is printed here would stand far above
        with suppress(OSError):
            Path(elastic).write_text(json.dumps({"message": sentence, "timestamp": int(time.time())}), encoding="utf-8")
            return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    print(f"\nError: {sentence}", file=sys.stderr, flush=True)
    if "RANK" not in os.environ:
        _end_launchers()


def _to_debug_log(text: str) -> None:
    """Into Axolotl's ``debug.log``, once that is open, and not onto the screen."""
    tee = sys.modules.get("axolotl.utils.tee")
    if tee is not None:
        with suppress(Exception):  # a log is no reason to lose the sentence
            tee.file_only_stream.write(text)
            tee.file_only_stream.flush()


def _end_launchers() -> None:
    """End the processes that only wait for this one, and would print a traceback of their own about its exit code.

    ``accelerate launch`` has a switch against that, which cannot be set from below, and ``axolotl evaluate`` has none.
    Both die of the signal without a word; a sweep goes on with its next run.
    """
    import psutil

    with suppress(psutil.Error):
        waiting = []
        for process in psutil.Process().parents():
            words = process.cmdline()
            if not _only_waits(words, first=not waiting):
                break
            waiting.append(process)
        for process in reversed(waiting):  # the outermost first: it would speak of the others' deaths
            process.terminate()


def _only_waits(words: list[str], first: bool) -> bool:
    names = [Path(word).name for word in words[:3]]
    if first:
        return "accelerate" in names and "launch" in words and any(word.startswith("axolotl.cli.") for word in words)
    own = (
        names[1:2] if names and names[0].startswith("python") else names[:1]
    )  # and not what started it: screen, timeout
    return own == ["axolotl"] and not any(word.startswith("--sweep") for word in words)
