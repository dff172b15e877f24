"""The hand-off: outcomes become token ids that Axolotl loads as they are, in a folder named after their hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from axolotl_safety.data.types import IGNORE, KL_MASK, Outcome
from axolotl_safety.util.errors import StageError
from axolotl_safety.util.files import make_folder, part_of, replacing, take_back, write_atomically
from axolotl_safety.util.terminal import storable

Row = tuple[np.ndarray, ...]  # input_ids_T and labels_T, and with KL on kl_mask_T

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
        ("categories", pa.list_(pa.string())),
        *((name, pa.string()) for name in ("stage", "reference_thinking", "reference_answer")),
        *((name, pa.int32()) for name in ("prompt_tokens", "response_tokens", "reference_tokens", "thought_tokens")),
        ("begun_tokens", pa.int32()),
    ]
)


def training_row(outcome: Outcome, kl: bool = False) -> Row:
    """Ids and labels of one row: the prompt masked by its length, the whole response trained, its end token too.

    Returns:
        ``input_ids_T`` (int32) and ``labels_T`` (int64) of the same length; with ``kl`` also ``kl_mask_T`` (int8), 1 on
        every trained token of a benign row. One that goes on from a thought that went wrong is imitated instead: the
        frozen model would go on as that does.
    """
    ids_T = np.array(outcome.prompt_ids + outcome.response_ids, dtype=np.int32)
    labels_T = ids_T.astype(np.int64)
    labels_T[: len(outcome.prompt_ids)] = IGNORE
    if not kl:
        return ids_T, labels_T
    compared = outcome.label == "benign" and not outcome.begun_tokens
    return ids_T, labels_T, ((labels_T != IGNORE) & compared).astype(np.int8)


def dataset_hash(rows: Sequence[Row]) -> str:
    """Hash of the ids and labels, row by row; lengths are part of it so that no two splits collide.

    KL masks are part of it where there are any, all zero or not: the folder with the column is another folder.
    """
    digest = hashlib.sha256()
    for ids_T, labels_T, *masks in rows:
        digest.update(
            len(ids_T).to_bytes(8, "little") + ids_T.astype("<i4").tobytes() + labels_T.astype("<i8").tobytes()
        )
        for mask_T in masks:
            digest.update(mask_T.astype("<i1").tobytes())
    return digest.hexdigest()[:24]


def _rejected_hash(outcomes: Sequence[Outcome]) -> str:
    """Names the folder of a dataset without ids: no two sources share it."""
    parts = [(outcome.source, outcome.row_id, outcome.reason) for outcome in outcomes]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _table(rows: Sequence[Row]) -> Any:
    """A datasets.Dataset with the types that Axolotl's own strategies produce, so that the two can be mixed."""
    from datasets import Dataset, Features, Sequence, Value

    kinds = {"input_ids": "int32", "attention_mask": "int8", "labels": "int64"}
    columns = {
        "input_ids": [row[0] for row in rows],
        "attention_mask": [np.ones(len(row[0]), dtype=np.int8) for row in rows],
        "labels": [row[1] for row in rows],
    }
    if any(len(row) == 3 for row in rows):
        kinds[KL_MASK] = "int8"
        columns[KL_MASK] = [row[2] for row in rows]
    features = Features({name: Sequence(Value(kind)) for name, kind in kinds.items()})
    return Dataset.from_dict(columns, features=features)


def read_hash(train: Path) -> str | None:
    """Hash of a dataset that is already on disk, None if it cannot be read."""
    from datasets import load_from_disk

    try:
        table = load_from_disk(str(train)).data.table
        names = [name for name in ("input_ids", "labels", KL_MASK) if name in table.column_names]
        columns = [table.column(name).combine_chunks() for name in names]
        ends = columns[0].offsets.to_numpy()
        values = [column.values.to_numpy() for column in columns]
        return dataset_hash([tuple(v[a:b] for v in values) for a, b in zip(ends[:-1], ends[1:], strict=True)])
    except Exception:  # a half-written or damaged folder in whatever way: it is written anew
        return None


def write_dataset(
    work_dir: Path,
    outcomes: Sequence[Outcome],
    manifest: dict[str, Any],
    kl: bool = False,
    thought_length: Callable[[tuple[int, ...]], int] = lambda ids: 0,
) -> tuple[str, Path]:
    """Write ``datasets/<hash>/``: ``train/``, then ``rows.parquet``, then ``manifest.json`` (with the hash) last.

    ``kl`` adds the ``kl_mask`` column, which gives the folder another hash; ``thought_length`` counts a thought's ids.

    Returns:
        The hash and the path of ``train/``, which is not there if every row was rejected; the hash is then that of
        the rejected rows.

    Raises:
        OSError: the disk is full or read-only.
        StageError: what was written does not read back as what was meant.
    """
    rows = [training_row(outcome, kl) for outcome in outcomes if outcome.response_ids and outcome.status != "rejected"]
    digest = dataset_hash(rows) if rows else _rejected_hash(outcomes)
    folder = work_dir / "datasets" / digest
    train = folder / "train"
    if not rows:
        make_folder(folder)
    elif read_hash(train) != digest:
        _write_train(train, rows, digest)
    _write_rows(folder / "rows.parquet", outcomes, thought_length)
    write_manifest(folder, {"hash": digest, **manifest})
    return digest, train


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``manifest.json`` as a whole."""
    text = json.dumps(manifest, indent=2, sort_keys=False, ensure_ascii=True)
    write_atomically(folder / "manifest.json", text.encode() + b"\n")


def _write_train(train: Path, rows: Sequence[Row], digest: str) -> None:
    make_folder(train.parent)
    part = part_of(train)
    shutil.rmtree(part, ignore_errors=True)
    try:
        table = _table(rows)
        table._fingerprint = digest  # otherwise derived from memory addresses, and state.json would differ each time
        make_folder(part)
        table.save_to_disk(str(part))
        take_back(part)
        shutil.rmtree(train, ignore_errors=True)
        os.replace(part, train)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    found = read_hash(train)
    if found != digest:
        raise StageError(f"{train} reads back with hash {found}, not {digest}: the disk does not keep what is written.")


_TEXTS = ("prompt", "thinking", "answer", "reference_thinking", "reference_answer")
_NULL_IF_EMPTY = ("label", "reason", "guard", "verdict", "proposal", "stage", "reference_tokens", "begun_tokens")


def _record(outcome: Outcome, thought_length: Callable[[tuple[int, ...]], int]) -> dict[str, Any]:
    """A row of ``rows.parquet``; what the schema does not name is left out."""
    return {
        **vars(outcome),
        **{name: storable(getattr(outcome, name)) for name in _TEXTS},
        **{name: getattr(outcome, name) or None for name in _NULL_IF_EMPTY},
        "categories": [storable(name) for name in outcome.categories],
        "attempts": outcome.attempts,
        "prompt_token_ids": outcome.prompt_ids,
        "response_token_ids": outcome.response_ids,
        "prompt_tokens": len(outcome.prompt_ids),
        "response_tokens": len(outcome.response_ids),
        "thought_tokens": thought_length(outcome.response_ids) if outcome.response_ids else None,
    }


def _write_rows(path: Path, outcomes: Sequence[Outcome], thought_length: Callable[[tuple[int, ...]], int]) -> None:
    records = [_record(outcome, thought_length) for outcome in outcomes]
    with replacing(path) as file:
        pq.write_table(pa.Table.from_pylist(records, schema=_ROW_SCHEMA), file)
