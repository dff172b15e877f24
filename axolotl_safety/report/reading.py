"""What the report is made of: the dataset folders of the last finished stage, the engine's runs, the evaluations."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..errors import StageError
from ..rows import LATEST
from ..runs import read_runs

LOG = logging.getLogger(__name__)
TEXTS = ("prompt", "thinking", "answer", "reference_thinking", "reference_answer")
_FACTS = (
    *("row_id", "label", "status", "reason", "nll_reference", "nll_accepted", "verdict", "attempts", "proposal"),
    *("candidate_reasons", "categories", "stage"),
    *("prompt_tokens", "response_tokens", "reference_tokens", "thought_tokens"),
)


@dataclass(frozen=True)
class Entry:
    """One dataset entry: its manifest, and what is known of each row but its texts.

    Attributes:
        folder: where it stands.
        manifest: as written by the stage.
        rows: one mapping per source row, in source order.
    """

    folder: Path
    manifest: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def table(self) -> Path:
        """The file with every row, texts included."""
        return self.folder / "rows.parquet"


@dataclass(frozen=True)
class Score:
    """One figure of an evaluation; rates and bounds are shares of one.

    Attributes:
        notes: whatever else was said of it (truncation rate, sampling), name and value.
    """

    axis: str
    set: str
    model: str
    rate: float
    n: int | None
    low: float | None
    high: float | None
    judge: str
    notes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Stage:
    """Everything that a work folder says of its last finished stage."""

    entries: Sequence[Entry]
    runs: Sequence[Mapping[str, Any]]
    scores: Sequence[Score]


def read_stage(work_dir: Path) -> Stage:
    """Read a work folder.

    Raises:
        StageError: no stage has been finished in it, or its files are not what this version writes.
    """
    try:
        latest = json.loads((work_dir / LATEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(
            f"{work_dir} holds no finished data stage ({error}). Run `axolotl preprocess` with this YAML first."
        ) from error
    entries = [_read_entry(work_dir / "datasets" / latest[index]) for index in sorted(latest, key=int)]
    return Stage(entries, read_runs(work_dir), read_scores(work_dir))


def _read_entry(folder: Path) -> Entry:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        rows = pq.read_table(folder / "rows.parquet", columns=list(_FACTS)).to_pylist()
        if "shift" not in manifest or any(name not in rows[0] for name in _FACTS if rows):
            raise ValueError("written by an earlier version of this package")
    except (OSError, ValueError) as error:
        raise StageError(
            f"{folder} cannot be read: {error}. Run `axolotl preprocess` with this YAML: what is finished is not "
            "generated again, and the folder is written anew."
        ) from error
    return Entry(folder, manifest, rows)


def read_texts(table: Path, wanted: Sequence[int], batch: int = 512) -> Iterator[tuple[int, dict[str, str]]]:
    """Texts of some rows, by their place; a batch of rows at a time, since long thoughts do not all fit in memory.

    Args:
        table: a ``rows.parquet``.
        wanted: ascending places.
        batch: rows read at once.
    """
    left = list(reversed(wanted))
    start = 0
    for part in pq.ParquetFile(table).iter_batches(batch, columns=list(TEXTS)):
        while left and left[-1] < start + len(part):
            place = left.pop()
            yield place, {name: part.column(name)[place - start].as_py() or "" for name in TEXTS}
        start += len(part)
        if not left:
            return


def text_sizes(table: Path, cap: int, batch: int = 512) -> Iterator[int]:
    """For each row the bytes of its texts, each counted up to ``cap``."""
    import pyarrow.compute as pc

    for part in pq.ParquetFile(table).iter_batches(batch, columns=list(TEXTS)):
        lengths = [pc.min_element_wise(pc.binary_length(part.column(name)), cap).to_pylist() for name in TEXTS]
        yield from (sum(value or 0 for value in row) for row in zip(*lengths, strict=True))


def read_scores(work_dir: Path) -> list[Score]:
    """Every figure of every evaluation in the work folder; what cannot be read is named in the log and left out."""
    found: list[Score] = []
    for path in sorted(work_dir.glob("evaluations/*/results.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            rows = said if isinstance(said, list) else said.get("rows") or said.get("results") or []
            scores = [score for row in rows if (score := _score(row)) is not None]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            LOG.warning("%s is left out of the report: %s", path, error)
            continue
        found += scores
    return found


def _number(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def _score(row: Any) -> Score | None:
    rate = _number(row.get("rate")) if isinstance(row, Mapping) else None
    if rate is None:
        return None
    named = ("axis", "set", "model", "rate", "n", "low", "high", "judge")
    notes = tuple((str(k), str(v)) for k, v in row.items() if k not in named and isinstance(v, (str, int, float)))
    count = _number(row.get("n"))
    return Score(
        *(str(row.get(name, "")) for name in ("axis", "set", "model")),
        rate,
        None if count is None else int(count),
        _number(row.get("low")),
        _number(row.get("high")),
        str(row.get("judge") or ""),
        notes,
    )
