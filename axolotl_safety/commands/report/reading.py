"""Reads the dataset folders of the last finished stage, the engine's runs and the evaluation for the report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from axolotl_safety.config.work_dir import LATEST, read_latest
from axolotl_safety.pipeline.manifest import read_runs
from axolotl_safety.util.errors import StageError

from .evaluations import Evaluation, read_evaluation
from .merges import read_merges
from .training import Training, read_training

TEXTS = ("prompt", "thinking", "answer", "reference_thinking", "reference_answer")
_FACTS = (
    *("row_id", "label", "status", "reason", "nll_reference", "nll_accepted", "verdict", "attempts", "proposal"),
    *("candidate_reasons", "categories", "stage"),
    *("prompt_tokens", "response_tokens", "reference_tokens", "thought_tokens"),
)


@dataclass(frozen=True)
class Entry:
    """One dataset entry: its folder, its manifest, and what is known of each source row, in order, but its texts."""

    folder: Path
    manifest: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def table(self) -> Path:
        """The file with every row, texts included."""
        return self.folder / "rows.parquet"


@dataclass(frozen=True)
class Stage:
    """Everything that a work folder says of its last finished stage."""

    entries: Sequence[Entry]
    runs: Sequence[Mapping[str, Any]]
    evaluation: Evaluation | None
    merges: Mapping[str, str]
    training: Training | None = None


def read_stage(work_dir: Path, run: str | None = None) -> Stage:
    """Read a work folder: the last finished stage, of one run if that is given.

    Raises:
        StageError: no stage has been finished in it, or its files are not what this version writes.
    """
    try:
        latest = read_latest(work_dir, LATEST, run)
    except (OSError, ValueError) as error:
        raise StageError(
            f"{work_dir} holds no finished data stage ({error}). Run `axolotl preprocess` with this YAML first."
        ) from error
    entries = [_read_entry(work_dir / "datasets" / latest[index]) for index in sorted(latest, key=int)]
    evaluation, training = read_evaluation(work_dir, run), read_training(work_dir, run)
    return Stage(entries, read_runs(work_dir), evaluation, read_merges(work_dir), training)


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
    """Texts of rows in ascending places; a batch of rows at a time, since long thoughts do not all fit in memory."""
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
