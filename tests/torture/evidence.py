"""What stands on the disk, read without the product's own reader, and how two states compare."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .script import BAD_THINGS

Key = tuple[str, str, str]  # journal file, kind, request id
_TAIL = re.compile(rb',"crc":"([0-9a-f]{8})"\}$')
# A manifest tells of its own run: what that run made and found, its time, and its engine processes.
EXEMPT = (
    "seconds",
    "counts",
    "engine.starts",
    "engine.pids",
    "engine.peak_rss_bytes",
    "engine.seconds",
    "engine.worker",
)


@dataclass(frozen=True)
class Records:
    """The journals' finished records.

    Attributes:
        lines: the first sound line of each.
        doubled: sound lines of a kind and id that stood there before.
    """

    lines: Mapping[Key, bytes]
    doubled: int

    @property
    def ids(self) -> set[str]:
        """Request ids."""
        return {request_id for _, _, request_id in self.lines}


def sound(line: bytes) -> bool:
    """Whether a line is whole: JSON, with a checksum over everything before it."""
    tail = _TAIL.search(line)
    if not tail or int(tail[1], 16) != zlib.crc32(line[: tail.start()]):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def read_records(work_dir: Path) -> Records:
    """Every sound line of every journal."""
    lines: dict[Key, bytes] = {}
    doubled = 0
    for path in sorted((work_dir / "journal").glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            line = line.rstrip(b"\r")
            if not sound(line):
                continue
            record = json.loads(line)
            key = (path.name, record["kind"], record["request_id"])
            doubled += key in lines
            lines.setdefault(key, line)
    return Records(lines, doubled)


def read_output(work_dir: Path) -> dict[str, bytes]:
    """Every file of the datasets by its path, manifests without what is `EXEMPT`; empty where a part is missing."""
    try:
        latest = (work_dir / "datasets" / "latest.json").read_bytes()
        found = {"latest.json": latest}
        for digest in json.loads(latest).values():
            folder = work_dir / "datasets" / digest
            for path in sorted((folder / "train").iterdir()):
                found[f"{digest}/train/{path.name}"] = path.read_bytes()
            found[f"{digest}/rows.parquet"] = (folder / "rows.parquet").read_bytes()
            found[f"{digest}/manifest.json"] = _told(json.loads((folder / "manifest.json").read_bytes()))
    except (OSError, ValueError):
        return {}
    return found


def _told(manifest: dict[str, Any]) -> bytes:
    asked = manifest["counts"]["generated"] + manifest["counts"]["reused"]
    for name in EXEMPT:
        *path, last = name.split(".")
        place = manifest
        for step in path:
            place = place[step]
        del place[last]
    return json.dumps(manifest | {"completions": asked}).encode()


def unverified(work_dir: Path, marks: Iterable[list[int]]) -> int:
    """Rows that are trained on although the guard never said, readably, that they are safe.

    Args:
        work_dir: of the stage.
        marks: ids of the words by which the guard's script knows such rows.
    """
    found = 0
    for train in (work_dir / "datasets").glob("*/train"):
        for path in train.glob("*.arrow"):
            with pa.memory_map(str(path)) as file:
                for ids in pa.ipc.open_stream(file).read_all().column("input_ids").to_pylist():
                    text = " ".join(map(str, ids))
                    found += any(f" {' '.join(map(str, mark))} " in text for mark in marks)
    for path in (work_dir / "datasets").glob("*/rows.parquet"):
        if not path.with_name("manifest.json").exists():
            continue
        for row in pq.read_table(path, columns=["prompt", "status", "verdict"]).to_pylist():
            if row["status"] != "rejected":
                found += row["verdict"] != "safe" or any(thing in row["prompt"] for thing in BAD_THINGS)
    return found


def lost(before: Records, made: Iterable[str], after: Records) -> int:
    """Finished records that a run lost: they are missing, changed, or were asked of its engine again.

    Args:
        before: finished when it began.
        made: ids that its engine delivered.
        after: finished when it ended, however it ended.
    """
    made = set(made)
    return sum(after.lines.get(key) != line or key[2] in made for key, line in before.lines.items())


def doubled(before: Records, made: Iterable[str], after: Records) -> int:
    """Records that a run wrote twice, and results that its engine made twice."""
    made = list(made)
    return max(0, after.doubled - before.doubled) + len(made) - len(set(made))


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run left."""

    records: Mapping[Key, bytes]
    output: Mapping[str, bytes]

    def differences(self, after: Records, output: Mapping[str, bytes]) -> list[str]:
        """Names of the output files and journal records that are not those of the undisturbed run, byte for byte."""
        files = {name for name in {*output, *self.output} if output.get(name) != self.output.get(name)}
        return sorted(
            files | {f"{key[0]}: {key[1]}" for key, line in self.records.items() if after.lines.get(key) != line}
        )
