"""Read the datasets that the YAML names, as Axolotl would, but without losing a row that Arrow cannot type."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_safety.util.errors import DataError
from axolotl_safety.util.terminal import without_credentials

_DEEPEST = 100
_SLICE = re.compile(r"train(?:\[(?:(\d+)(%)?)?:(?:(\d+)(%)?)?\])?")


@dataclass(frozen=True)
class Source:
    """The rows of one dataset entry.

    Attributes:
        name: the entry's ``path`` as written, but for user, password and keys in an address.
        rows: the source rows; a line that is no JSON, or nested without sense, stands here as text.
    """

    name: str
    rows: list[Any]
    columns: frozenset[str]
    sha256: str


def read_source(entry: Any, use_auth_token: bool | None, seed: int) -> Source:
    """Read one dataset entry, honouring split, shards, data_files, name and revision.

    Raises:
        DataError: the dataset is missing, unreadable or empty.
    """
    name = without_credentials(str(entry.path))
    try:
        rows = _read_json(entry) if _is_plain_json(entry) else _read_with_axolotl(entry, use_auth_token, seed)
    except DataError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        # A traceback would show the cause as it stands.
        cause = error if name == str(entry.path) and said == without_credentials(said) else None
        raise DataError(f"datasets: {name!r} cannot be read: {said}. Check path, split and ds_type.") from cause
    if not rows:
        raise DataError(f"datasets: {name!r} has no rows. Check path and split.")
    columns = frozenset(key for row in rows if isinstance(row, dict) for key in row)
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=repr).encode() + b"\n")
    return Source(name, rows, columns, digest.hexdigest())


def _is_plain_json(entry: Any) -> bool:
    path = Path(str(entry.path))
    if entry.data_files or not path.is_file() or path.suffix not in (".json", ".jsonl"):
        return False
    return entry.ds_type in (None, "json") and _SLICE.fullmatch(entry.split or "train") is not None


def _read_json(entry: Any) -> list[Any]:
    """Read a JSON list or JSON lines, row by row: Arrow refuses a whole file for one row of another type."""
    text = Path(str(entry.path)).read_text(encoding="utf-8-sig", errors="surrogateescape")
    rows = _json_list(text, entry) if text.lstrip().startswith("[") else list(_json_lines(text))
    return _shard(_slice(rows, entry.split or "train"), entry)


def _too_deep(value: Any) -> bool:
    """Whether a value is nested so that hashing or writing it might run out of stack; no dataset's row is."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level, depth = [item for items in inner for item in items], depth + 1
    return bool(level)


def _json_list(text: str, entry: Any) -> list[Any]:
    try:
        return [f"(nested deeper than {_DEEPEST})" if _too_deep(row) else row for row in json.loads(text)]
    except (json.JSONDecodeError, RecursionError) as error:
        first, *more = _json_lines(text)
        if more and isinstance(first, list):  # lines after all, and the first row is a list: a reject like any other
            return [first, *more]
        raise DataError(f"datasets: {entry.path!r} is not valid JSON: {error}.") from error


def _json_lines(text: str) -> Iterator[Any]:
    for line in text.split("\n"):
        if line.strip():
            try:
                row = json.loads(line)
                yield line if _too_deep(row) else row
            except (json.JSONDecodeError, RecursionError):
                yield line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _slice(rows: list[Any], split: str) -> list[Any]:
    match = _SLICE.fullmatch(split)
    assert match is not None  # _is_plain_json has looked
    start, start_percent, end, end_percent = match.groups()

    def place(number: str | None, percent: str | None, default: int) -> int:
        if number is None:
            return default
        return round(len(rows) * int(number) / 100) if percent else int(number)

    return rows[place(start, start_percent, 0) : place(end, end_percent, len(rows))]


def _shard(rows: list[Any], entry: Any) -> list[Any]:
    if not entry.shards:
        return rows
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    return [rows[index] for index in order[int(entry.get("shards_idx") or 0) :: int(entry.shards)]]


def _read_with_axolotl(entry: Any, use_auth_token: bool | None, seed: int) -> list[Any]:
    from axolotl.utils.data.shared import load_dataset_with_config
    from datasets import DatasetDict

    dataset = load_dataset_with_config(entry, bool(use_auth_token), streaming=False)
    if isinstance(dataset, DatasetDict):
        # load_from_disk ignores `split:`; load_dataset has applied it already and returns no dict then.
        name, bracket, part = (entry.split or "train").partition("[")
        if name not in dataset:
            splits = ", ".join(dataset)
            raise DataError(f"datasets: {entry.path!r} has the splits {splits}, not {name!r}; set `split:` to one.")
        if bracket and not _SLICE.fullmatch(f"train[{part}"):
            raise DataError(
                f"datasets: the slice in split {entry.split!r} of {entry.path!r} cannot be read; use [a:b]."
            )
        rows = dataset[name].to_list()
        return _shard(_slice(rows, f"train[{part}") if bracket else rows, entry)
    if entry.shards:
        dataset = dataset.shuffle(seed=seed).shard(num_shards=entry.shards, index=int(entry.get("shards_idx") or 0))
    return dataset.to_list()


def seeded_order(row_ids: list[str], seed: int) -> list[str]:
    """The rows in a drawn order. A row's place in the draw depends on itself and the seed alone."""
    return sorted(row_ids, key=lambda row_id: hashlib.sha256(f"{seed}\0{row_id}".encode()).digest())


def select_rows(row_ids: list[str], max_rows: int | None, seed: int) -> set[str]:
    """Draw ``max_rows`` rows, so that a larger ``max_rows`` keeps every row of a smaller one and their finished
    completions are used again."""
    if max_rows is None or max_rows >= len(row_ids):
        return set(row_ids)
    return set(seeded_order(row_ids, seed)[:max_rows])
