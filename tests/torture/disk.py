"""Full disks, folders that nobody may write, and names that are not plain."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import evidence
from .case import Case, Field
from .runs import Job

_HINT = "run the same command again"
SMALLEST = 400  # bytes; far less than a run says, so that the campaign's own notes would be cut if they fell under it


def full(field: Field, kinds: list[str]) -> Case:
    """A disk without space: a clear stop, no half record, and the same bytes once there is room again."""
    case = Case("no space left (ENOSPC)")
    for kind in kinds:
        case.tries += 1
        work = field.folder()
        number = field.dice.randint(2, _writes(field)) if kind in ("journal", "short") else 1
        field.stopped(case, Job(work, full=(kind, number)), [str(work), "No space left on device", _HINT])
        if torn := _torn(work):
            case.problems.append(f"{kind}: {torn} was left behind half written")
        field.resumed(case, Job(work))
    return case


def limited(field: Field, tries: int) -> Case:
    """A limit on a file's size: the kernel itself writes a part and then refuses."""
    case = Case("no file may grow beyond a limit (EFBIG, the kernel's short writes)")
    largest = max(path.stat().st_size for path in (field.finished / "journal").iterdir())
    for limit in [SMALLEST, *(field.dice.randint(SMALLEST, largest - 1) for _ in range(tries - 1))]:
        case.tries += 1
        work = field.folder()
        field.stopped(case, Job(work, full=("limit", limit)), [str(work / "journal"), _HINT])
        if beyond := [path.name for path in work.rglob("*") if path.is_file() and path.stat().st_size > limit]:
            case.problems.append(f"the limit of {limit} bytes did not hold for {beyond}")
        if torn := _torn(work):
            case.problems.append(f"limit {limit}: {torn} was left behind half written")
        field.resumed(case, Job(work))
    return case


def really_full(field: Field, tries: int) -> Case:
    """A file system of its own that another file fills up in the middle of the work, and then that file is gone."""
    case = Case("a real file system that runs full (tmpfs)")
    for _ in range(tries):
        work = field.folder()
        run = field.runs.finish(Job(work, small_disk=field.dice.randint(2, _writes(field) // 2)))
        if (run.evidence / "not_tried").exists():
            return case  # this machine does not let us mount; no try is counted
        case.tries += 1
        message = run.stops[0] if run.stops else f"no stop at all: {run.log[-300:]}"
        if any(word not in message for word in (str(work), "No space left on device", _HINT)):
            case.problems.append(f"no clear stop: {message}")
        else:
            case.stops.append(message)
        first = (run.evidence / "made_before").read_text().split()
        (run.evidence / "made").write_text("\n".join(run.made[len(first) :]))
        field.book_end(case, run.evidence / "after", evidence.read_records(run.evidence / "before"), run)
    return case


def _writes(field: Field) -> int:
    """How many lines an undisturbed run writes into its journals."""
    return sum(count for (_, what), count in field.counts.items() if what == "before a line")


def read_only(field: Field) -> Case:
    """What may not be written, without the power of root: a stop before any work, or with everything kept."""
    case = Case("read-only folders and files")
    for name in (".", "journal", "datasets", "journal file"):
        case.tries += 1
        work = field.copy_finished()
        (work / "datasets").mkdir()
        if name == "journal file":
            places = sorted((work / "journal").glob("*.jsonl"))
        else:
            places = [work / name]
            if name == "journal":
                shutil.rmtree(work / "journal")
                (work / "journal").mkdir()
        modes = {path: path.stat().st_mode for path in places}
        for path in places:
            path.chmod(0o500 if path.is_dir() else 0o400)
        run = field.stopped(case, Job(work, powerless=True), [str(work), "ermission denied"])
        if name != "datasets" and run.made:
            case.problems.append(f"{name}: {len(run.made)} results were made before it was noticed")
        for path, mode in modes.items():
            path.chmod(mode)
        field.resumed(case, Job(work))
    return case


def odd_names(field: Field, names: list[str]) -> Case:
    """Work folders with names that are not plain, killed once and resumed."""
    case = Case("unicode, blanks, links and long names in the path")
    for name in names:
        case.tries += 1
        work = field.folder(name)
        if name == "a link":
            (work.parent / "the real one").mkdir(parents=True)
            work.symlink_to(work.parent / "the real one")
        field.killed(case, Job(work, die={"phase": "guard", "what": "mid-line", "number": 3}))
        field.resumed(case, Job(work))
    return case


NAMES = ["Prüfung 日本 🙂", "with a blank and 'quotes'", "a line\nbreak", "a link", "l" * 200, "-rf", "50%{}$HOME"]


def _torn(work: Path) -> str:
    """A journal that does not end with a whole line, or a part-file."""
    for path in (work / "journal").glob("*.jsonl"):
        if (content := path.read_bytes()) and not content.endswith(b"\n"):
            return path.name
    parts = [str(path.relative_to(work)) for path in work.rglob("*.part")]
    return os.fspath(parts[0]) if parts else ""
