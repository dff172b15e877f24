"""The hand-off: outcomes become token ids that Axolotl loads as they are, in a folder named after their hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import StageError
from .journal import write_atomically
from .rows import Outcome

IGNORE = -100

_ROW_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("row_id", "source", "prompt", "label", "status", "reason")),
        *((name, pa.string()) for name in ("thinking", "answer")),
        *((name, pa.list_(pa.int32())) for name in ("prompt_token_ids", "response_token_ids")),
        *((name, pa.float64()) for name in ("nll_reference", "nll_accepted")),
        *((name, pa.string()) for name in ("guard", "verdict")),
        ("attempts", pa.int32()),
        ("proposal", pa.string()),
        ("request_ids", pa.list_(pa.string())),
        *((name, pa.list_(pa.string())) for name in ("candidate_reasons", "candidate_proposals")),
        *((name, pa.float64()) for name in ("ess", "tempering")),
    ]
)


def training_row(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels of one row: the prompt masked by its length, the whole response trained, its end token too.

    Returns:
        ``input_ids_T`` (int32) and ``labels_T`` (int64) of the same length.
    """
    ids_T = np.array(outcome.prompt_ids + outcome.response_ids, dtype=np.int32)
    labels_T = ids_T.astype(np.int64)
    labels_T[: len(outcome.prompt_ids)] = IGNORE
    return ids_T, labels_T


def dataset_hash(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """Hash of the ids and labels, row by row; lengths are part of it so that no two splits collide."""
    digest = hashlib.sha256()
    for ids_T, labels_T in rows:
        digest.update(
            len(ids_T).to_bytes(8, "little") + ids_T.astype("<i4").tobytes() + labels_T.astype("<i8").tobytes()
        )
    return digest.hexdigest()[:24]


def _table(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Any:
    """A datasets.Dataset with the types that Axolotl's own strategies produce, so that the two can be mixed."""
    from datasets import Dataset, Features, Sequence, Value

    features = Features(
        {
            "input_ids": Sequence(Value("int32")),
            "attention_mask": Sequence(Value("int8")),
            "labels": Sequence(Value("int64")),
        }
    )
    columns = {
        "input_ids": [ids_T for ids_T, _ in rows],
        "attention_mask": [np.ones(len(ids_T), dtype=np.int8) for ids_T, _ in rows],
        "labels": [labels_T for _, labels_T in rows],
    }
    return Dataset.from_dict(columns, features=features)


def _read_hash(train: Path) -> str | None:
    """Hash of a dataset that is already on disk, None if it cannot be read."""
    from datasets import load_from_disk

    try:
        table = load_from_disk(str(train)).data.table
        ids, labels = (table.column(name).combine_chunks() for name in ("input_ids", "labels"))
        ends = ids.offsets.to_numpy()
        ids_N, labels_N = ids.values.to_numpy(), labels.values.to_numpy()
        return dataset_hash([(ids_N[a:b], labels_N[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)])
    except Exception:  # a half-written or damaged folder in whatever way: it is written anew
        return None


def write_dataset(work_dir: Path, outcomes: Sequence[Outcome], manifest: dict[str, Any]) -> tuple[str, Path]:
    """Write ``datasets/<hash>/``: ``train/``, then ``rows.parquet``, then ``manifest.json`` last.

    Args:
        work_dir: the stage's folder.
        outcomes: every source row of one dataset entry, in source order.
        manifest: what to say about it; ``hash`` is added.

    Returns:
        The hash and the path of ``train/``.

    Raises:
        OSError: the disk is full or read-only.
        StageError: what was written does not read back as what was meant.
    """
    rows = [training_row(outcome) for outcome in outcomes if outcome.response_ids and outcome.status != "rejected"]
    digest = dataset_hash(rows)
    folder = work_dir / "datasets" / digest
    train = folder / "train"
    if _read_hash(train) != digest:
        _write_train(train, rows, digest)
    _write_rows(folder / "rows.parquet", outcomes)
    text = json.dumps({"hash": digest, **manifest}, indent=2, sort_keys=False, ensure_ascii=True)
    write_atomically(folder / "manifest.json", text.encode() + b"\n")
    return digest, train


def _write_train(train: Path, rows: Sequence[tuple[np.ndarray, np.ndarray]], digest: str) -> None:
    train.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = train.with_name(f".train.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        table = _table(rows)
        table._fingerprint = digest  # otherwise derived from memory addresses, and state.json would differ each time
        table.save_to_disk(str(part))
        shutil.rmtree(train, ignore_errors=True)
        os.replace(part, train)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    found = _read_hash(train)
    if found != digest:
        raise StageError(f"{train} reads back with hash {found}, not {digest}: the disk does not keep what is written.")


def _printable(text: str) -> str:
    """Text that Arrow can store: lone surrogates are shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_rows(path: Path, outcomes: Sequence[Outcome]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    records = [
        {
            "row_id": outcome.row_id,
            "source": outcome.source,
            "prompt": _printable(outcome.prompt),
            "label": outcome.label or None,
            "status": outcome.status,
            "reason": outcome.reason or None,
            "thinking": _printable(outcome.thinking),
            "answer": _printable(outcome.answer),
            "prompt_token_ids": list(outcome.prompt_ids),
            "response_token_ids": list(outcome.response_ids),
            "nll_reference": outcome.nll_reference,
            "nll_accepted": outcome.nll_accepted,
            "guard": outcome.guard or None,
            "verdict": outcome.verdict or None,
            "attempts": outcome.attempts,
            "proposal": outcome.proposal or None,
            "request_ids": list(outcome.request_ids),
            "candidate_reasons": list(outcome.candidate_reasons),
            "candidate_proposals": list(outcome.candidate_proposals),
            "ess": outcome.ess,
            "tempering": outcome.tempering,
        }
        for outcome in outcomes
    ]
    try:
        pq.write_table(pa.Table.from_pylist(records, schema=_ROW_SCHEMA), part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
