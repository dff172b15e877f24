"""Journals that are cut short, damaged, doubled, or written into by strangers."""

from __future__ import annotations

import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from axolotl_safety.engines.journal import Journal

from . import evidence
from .case import Case, Field
from .runs import Job

Lines = list[bytes]


def at_every_byte(field: Field, records: int) -> Case:
    """Every journal cut at every byte of its last records: what is whole is held, and the rest can be written again."""
    case = Case(f"journal cut at every byte of its last {records} records")
    for path in sorted((field.finished / "journal").glob("*.jsonl")):
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        cut_path = field.folder() / path.name
        for cut in range(len(b"".join(lines[:-records])), len(whole) + 1):
            case.tries += 1
            cut_path.parent.mkdir(parents=True, exist_ok=True)
            cut_path.write_bytes(whole[:cut])
            _cut_and_mend(case, cut_path, whole, cut)
    return case


def _cut_and_mend(case: Case, path: Path, whole: bytes, cut: int) -> None:
    lines = whole.splitlines()
    ends = [len(b"\n".join(lines[: count + 1])) for count in range(len(lines))]
    complete = sum(end <= cut for end in ends)  # a record may lack its line's end alone
    records = [json.loads(line) for line in lines]
    keys = [(record["kind"], record["request_id"]) for record in records]
    case.compared += 1
    with Journal(path) as journal:
        held = set(journal.keys())
        case.lost += len(set(keys[:complete]) - held)
        if held - set(keys[:complete]):
            case.problems.append(f"cut at byte {cut}: a record that was not whole is believed")
        for record, key in zip(records, keys, strict=True):
            journal.append(*key, {name: record[name] for name in record if name not in ("kind", "request_id", "crc")})
    case.identical += path.read_bytes() == whole


def cut_and_resumed(field: Field, tries: int) -> Case:
    """Whole stages on journals cut at drawn bytes of their last three records."""
    case = Case("journal cut at drawn bytes, whole stage resumed")
    for _ in range(tries):
        case.tries += 1
        work = field.copy_finished()
        path = field.dice.choice(sorted((work / "journal").glob("*.jsonl")))
        whole = path.read_bytes()
        last = len(b"".join(whole.splitlines(keepends=True)[-3:]))
        path.write_bytes(whole[: len(whole) - field.dice.randint(0, last)])
        field.resumed(case, Job(work))
    return case


def _flip(line: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(line))
    return line[:place] + bytes([line[place] ^ 1 << dice.randrange(7)]) + line[place + 1 :]


def _with_crc(body: bytes) -> bytes:
    return body + b',"crc":"%08x"}' % zlib.crc32(body)


def _changed(line: bytes) -> bytes:
    """The same record with another content and a sound checksum, as a second writer might leave it."""
    record = json.loads(line) | {"finish_reason": "stop", "token_ids": [1, 2, 3]}
    del record["crc"]
    return _with_crc(json.dumps(record, separators=(",", ":")).encode()[:-1])


def _at(dice: random.Random, lines: Lines, made: Callable[[bytes], list[bytes]]) -> Lines:
    """The lines with others in the place of a drawn one."""
    place = dice.randrange(len(lines))
    return [*lines[:place], *made(lines[place]), *lines[place + 1 :]]


DAMAGE: dict[str, Callable[[Lines, random.Random], Lines]] = {
    "flipped bits": lambda lines, dice: _at(
        dice, _at(dice, lines, lambda x: [_flip(x, dice)]), lambda x: [_flip(x, dice)]
    ),
    "NUL bytes": lambda lines, dice: _at(dice, lines, lambda x: [b"\0" * len(x)]),
    "a half line": lambda lines, dice: _at(dice, lines, lambda x: [x[: len(x) // 2]]),
    "two lines in one": lambda lines, dice: _at(dice, lines, lambda x: [x[: len(x) // 2] + x]),
    "a wrong checksum": lambda lines, dice: _at(dice, lines, lambda x: [x[:-10] + b'00000000"}']),
    "no checksum": lambda lines, dice: _at(dice, lines, lambda x: [x[:-18] + b"}"]),
    "doubled records": lambda lines, dice: [*lines, *dice.sample(lines, 3)],
    "a double with other content": lambda lines, dice: [*lines, _changed(lines[0])],
    "CRLF line ends": lambda lines, dice: [line + b"\r" for line in lines],
    "blank lines": lambda lines, dice: _at(dice, lines, lambda x: [b"", x, b"", b"  "]),
    "another program's lines": lambda lines, dice: _at(dice, lines, lambda x: [b'{"step": 3, "loss": 0.7}', x]),
    "a stranger's sound record": lambda lines, dice: [
        _with_crc(b'{"kind":"completion","request_id":"0123","token_ids":[1],"finish_reason":"stop"'),
        *lines,
    ],
    "an unknown kind": lambda lines, dice: [_with_crc(b'{"kind":"dream","request_id":"0123"'), *lines],
    "bytes that are no text": lambda lines, dice: _at(dice, lines, lambda x: [b"\xff\xfe\x80" * 9, x]),
    "an empty file": lambda lines, dice: [],
}


def damaged(field: Field, names: list[str]) -> Case:
    """Whole stages on damaged journals: only the work that only a damaged line held is done again."""
    case = Case("corrupted, doubled and foreign records")
    for name in names:
        case.tries += 1
        work = field.copy_finished()
        path = field.dice.choice(sorted((work / "journal").glob("*.jsonl")))
        lines = DAMAGE[name](path.read_bytes().splitlines(), field.dice)
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        kept = evidence.read_records(work).ids
        run = field.resumed(case, Job(work))
        wanted = {key[2] for key in field.reference.records} - kept
        if run.code == 0 and set(run.made) != wanted:
            case.problems.append(f"{name}: {len(set(run.made))} results were made, and {len(wanted)} were missing")
    return case


def finished(field: Field, tries: int) -> Case:
    """Finished stages run again: as they were, then each with one file damaged or gone; nothing stale is served."""
    case = Case("a finished stage with a damaged file")
    for number in range(tries + 1):
        case.tries += 1
        work = field.folder()
        shutil.copytree(field.finished, work)
        if number:
            _harm(work, field.dice)
        kept = evidence.read_records(work).ids
        run = field.resumed(case, Job(work))
        if len(set(run.made)) != len({key[2] for key in field.reference.records} - kept):
            case.problems.append(f"{len(set(run.made))} results were made, and the journals held all others")
    return case


def _harm(work: Path, dice: random.Random) -> None:
    """One file of a finished stage is cut, gone or, where every byte of it counts, has a bit flipped."""
    whole = [*(work / "journal").iterdir(), *work.glob("datasets/*.json")]
    whole += work.glob("datasets/*/*.*")
    path = dice.choice(sorted([*whole, *work.glob("datasets/*/train/*.arrow")]))
    way = dice.choice(["cut", "gone", "flipped"] if path in whole else ["cut", "gone"])
    if way == "gone":
        path.unlink()
    elif way == "cut":
        os.truncate(path, dice.randrange(path.stat().st_size))
    else:
        path.write_bytes(_flip(path.read_bytes(), dice))
