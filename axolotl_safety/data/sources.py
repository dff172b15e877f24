"""Read the datasets that the YAML names, as Axolotl would, but without losing a row that Arrow cannot type."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axolotl_safety.util.errors import DataError
from axolotl_safety.util.progress import ProgressLine
from axolotl_safety.util.terminal import without_credentials

from .json_tables import object_rows

LOG = logging.getLogger(__name__)
_DEEPEST = 100
_SLICE = re.compile(r"train(?:\[(?:(\d+)(%)?)?:(?:(\d+)(%)?)?\])?")


@dataclass(frozen=True)
class Source:
    """The rows of one dataset entry.

    Attributes:
        name: the entry's ``path`` as written, but for user, password and keys in an address.
        rows: the source rows; a line that is no JSON, or nested without sense, stands here as text.
        row_ids: hash of each row's content, so that moving or reordering a file costs nothing; rows that are repeated
            are told apart by their count.
        sha256: of all rows.
        whole: how many rows there were where the entry's ``weight`` took a part of them; None where it took all.
    """

    name: str
    rows: list[Any]
    row_ids: list[str]
    columns: frozenset[str]
    sha256: str
    whole: int | None = None

    def weighted(self, weight: float | None, seed: int) -> Source:
        """The part of the rows that Axolotl's ``weight`` (0 to 1, from 0.21 on) asks for, drawn as ``max_rows`` draws.

        Axolotl thins a dataset before it tokenises it; here that is before anything is generated.
        """
        if weight is None or weight >= 1:
            return self
        count = max(1, int(len(self.rows) * weight))
        drawn = set(seeded_order(self.row_ids, seed)[:count])
        kept = [place for place, row_id in enumerate(self.row_ids) if row_id in drawn]
        rows, row_ids = [self.rows[place] for place in kept], [self.row_ids[place] for place in kept]
        LOG.info("%s: weight %g takes %d of %d rows", self.name, weight, len(rows), len(self.rows))
        return replace(self, rows=rows, row_ids=row_ids, whole=len(self.rows))


def read_source(entry: Any, use_auth_token: bool | None, seed: int) -> Source:
    """Read one dataset entry, honouring split, shards, data_files, name and revision.

    Raises:
        DataError: the dataset is missing, unreadable or empty.
    """
    name = without_credentials(str(entry.path))
    names: Mapping[str, Sequence[str]] = {}
    try:
        if _is_plain_json(entry):
            rows = _read_json(entry)
        else:
            rows, names = _read_with_axolotl(entry, use_auth_token, seed)
    except DataError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        # A traceback would show the cause as it stands.
        cause = error if name == str(entry.path) and said == without_credentials(said) else None
        raise DataError(
            f"datasets: {name!r} cannot be read: {said.rstrip('.')}. Check path, split and ds_type."
        ) from cause
    if not rows:
        raise DataError(f"datasets: {name!r} has no rows. Check path and split.")
    with ProgressLine(f"{name}: rows read", len(rows), LOG) as progress:
        row_ids, sha256 = identify(rows, progress.done)
    rows = [_with_names(row, names) for row in rows] if names else rows  # named by what the source holds: numbers
    columns = frozenset(key for row in rows if isinstance(row, dict) for key in row)
    return Source(name, rows, row_ids, columns, sha256)


def identify(rows: Iterable[Any], done: Callable[[], None] = lambda: None) -> tuple[list[str], str]:
    """The id of every row, and the hash of all of them in their order."""
    encode = json.JSONEncoder(sort_keys=True, default=repr).encode
    whole, seen, row_ids = hashlib.sha256(), Counter[str](), []
    for row in rows:
        text = encode(row).encode()
        whole.update(text + b"\n")
        digest = hashlib.sha256(text).hexdigest()[:24]
        seen[digest] += 1
        row_ids.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
        done()
    return row_ids, whole.hexdigest()


def _with_names(row: dict[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row with the name of each class in the place of its number; a number without a name (-1) is no class."""

    def named(value: Any, words: Sequence[str]) -> Any:
        if isinstance(value, list):
            return [named(one, words) for one in value]
        return words[value] if isinstance(value, int) and 0 <= value < len(words) else None

    return {**row, **{column: named(row[column], words) for column, words in names.items()}}


def _is_plain_json(entry: Any) -> bool:
    path = Path(str(entry.path))
    if entry.data_files or not path.is_file() or path.suffix not in (".json", ".jsonl"):
        return False
    return entry.ds_type in (None, "json") and _SLICE.fullmatch(entry.split or "train") is not None


def _read_json(entry: Any) -> list[Any]:
    """Read JSON row by row: Arrow refuses a whole file for one row of another type.

    A list of objects, one object per line, or in a ``.json`` file one object alone: see `object_rows`.
    """
    path = Path(str(entry.path))
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if text.lstrip().startswith("["):
        rows = _json_list(text, entry)
    elif path.suffix == ".json" and (whole := _one_object(text)) is not None:
        rows = [_not_too_deep(row) for row in object_rows(whole, str(entry.path))]
    else:
        rows = list(_json_lines(text))
    return _shard(list(_slice(rows, entry.split or "train")), entry)


def _too_deep(value: Any) -> bool:
    """Whether a value is nested so that hashing or writing it might run out of stack; no dataset's row is."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level, depth = [item for items in inner for item in items], depth + 1
    return bool(level)


def _not_too_deep(row: Any) -> Any:
    return f"(nested deeper than {_DEEPEST})" if _too_deep(row) else row


def _one_object(text: str) -> dict[str, Any] | None:
    """The object that is the whole text, on one line or many; None where there is more than one, or none."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        json.loads(first)
        if rest.strip():
            return None
    except (json.JSONDecodeError, RecursionError):
        pass  # an object over several lines, or no JSON
    try:
        whole = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def _json_list(text: str, entry: Any) -> list[Any]:
    try:
        return [_not_too_deep(row) for row in json.loads(text)]
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


def _slice(rows: Sequence[Any], split: str) -> Sequence[Any]:
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


def _read_with_axolotl(
    entry: Any, use_auth_token: bool | None, seed: int
) -> tuple[list[Any], Mapping[str, Sequence[str]]]:
    """The rows as the loader gives them, and the names of the classes of columns that hold numbers of classes."""
    from datasets import DatasetDict

    dataset = _load(entry, use_auth_token)
    if isinstance(dataset, DatasetDict):
        # load_from_disk ignores `split:`; load_dataset has applied it already and returns no dict then.
        name = (entry.split or "train").partition("[")[0]
        if name not in dataset:
            splits = ", ".join(dataset)
            raise DataError(f"datasets: {entry.path!r} has the splits {splits}, not {name!r}; set `split:` to one.")
        dataset = dataset[name]
        return _shard(_part(dataset.to_list(), entry), entry), _class_names(dataset.features)
    if _is_saved(entry):
        _check_saved_split(entry, dataset)
        dataset = dataset.select(_part(range(len(dataset)), entry))
    if entry.shards:
        dataset = dataset.shuffle(seed=seed).shard(num_shards=entry.shards, index=int(entry.get("shards_idx") or 0))
    return dataset.to_list(), _class_names(dataset.features)


def _load(entry: Any, use_auth_token: bool | None) -> Any:
    from axolotl.utils.data.shared import load_dataset_with_config
    from datasets import load_dataset

    if files := _tab_separated(entry):  # Axolotl has no word for them
        return load_dataset("csv", data_files=files, sep="\t", split=entry.split or "train")
    return load_dataset_with_config(entry, bool(use_auth_token), streaming=False)


def _tab_separated(entry: Any) -> list[str]:
    """The local files of an entry, if all of them are tables with tabs."""
    named = entry.data_files or [entry.path]
    files = [str(one) for one in ([named] if isinstance(named, str) else named)]
    found = all(Path(one).suffix == ".tsv" and Path(one).is_file() for one in files)
    return files if found and entry.ds_type in (None, "csv") else []


def _is_saved(entry: Any) -> bool:
    """Whether the path is a folder of `Dataset.save_to_disk`, of which load_from_disk reads everything."""
    return not entry.data_files and (Path(str(entry.path)) / "state.json").is_file()


def _check_saved_split(entry: Any, dataset: Any) -> None:
    """A saved Dataset is one split.

    Raises:
        DataError: ``split:`` names another one.
    """
    name = (entry.split or "").partition("[")[0]
    own = str(dataset.split or "train")
    if name and name not in re.split(r"\W+", own):
        raise DataError(
            f"datasets: {entry.path!r} is one saved Dataset, split {own!r}, and has no split {name!r}. Leave `split:` "
            f"out, take a part of it with `split: {own.partition('[')[0]}[a:b]`, or save a DatasetDict."
        )


def _part(rows: Sequence[Any], entry: Any) -> list[Any]:
    """The slice that ``split:`` asks for.

    Raises:
        DataError: it cannot be read.
    """
    _, bracket, part = (entry.split or "").partition("[")
    if bracket and not _SLICE.fullmatch(f"train[{part}"):
        raise DataError(f"datasets: the slice in split {entry.split!r} of {entry.path!r} cannot be read; use [a:b].")
    return list(_slice(rows, f"train[{part}") if bracket else rows)


def _class_names(features: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """By column, the names of its classes; of a list of classes too."""
    found = {}
    for column, feature in features.items():
        names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        if names:
            found[column] = names
    return found


def seeded_order(row_ids: list[str], seed: int) -> list[str]:
    """The rows in a drawn order. A row's place in the draw depends on itself and the seed alone."""
    return sorted(row_ids, key=lambda row_id: hashlib.sha256(f"{seed}\0{row_id}".encode()).digest())


def select_rows(row_ids: list[str], max_rows: int | None, seed: int) -> set[str]:
    """Draw ``max_rows`` rows, so that a larger ``max_rows`` keeps every row of a smaller one and their finished
    completions are used again."""
    if max_rows is None or max_rows >= len(row_ids):
        return set(row_ids)
    return set(seeded_order(row_ids, seed)[:max_rows])
