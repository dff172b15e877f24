"""``results.json`` and ``items.parquet``, in a folder named after everything that decides them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from axolotl_safety.config.work_dir import EVALUATIONS, LATEST_EVALUATION, of_run
from axolotl_safety.util.files import make_folder, replacing, write_atomically
from axolotl_safety.util.terminal import storable

from .runner import Response

SCHEMA = 1


def write_results(
    work_dir: Path,
    results: dict[str, Any],
    responses: Sequence[Response],
    overlap: Mapping[tuple[str, str, str], str],
    run: str,
) -> Path:
    """Write an evaluation; ``results.json`` comes last, so that a folder that has one is whole.

    Args:
        work_dir: the YAML's.
        results: what is written.
        responses: every one of them, for ``items.parquet``.
        overlap: which items also stand in the training data, and how.
        run: the YAML's run, whose last evaluation this is now.

    Raises:
        OSError: the disk is full or read-only.
    """
    folder = work_dir / EVALUATIONS / results["hash"]
    make_folder(folder)
    _write_items(folder / "items.parquet", responses, overlap)
    text = json.dumps(results, indent=1, ensure_ascii=True)
    write_atomically(folder / "results.json", text.encode() + b"\n")
    for name in (of_run(LATEST_EVALUATION, run), LATEST_EVALUATION):
        write_atomically(work_dir / name, json.dumps({"hash": results["hash"]}).encode() + b"\n")
    return folder


def _write_items(path: Path, responses: Sequence[Response], overlap: Mapping[tuple[str, str, str], str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("set", "axis", "model", "item", "attack")),
            ("sample", pa.int32()),
            *((name, pa.string()) for name in ("prompt", "thought", "answer")),
            ("tokens", pa.int32()),
            ("finish", pa.string()),
            ("closed", pa.bool_()),
            ("verdict", pa.string()),
            *((name, pa.bool_()) for name in ("harmful", "unjudged", "refused", "correct")),
            ("incoherent", pa.string()),
            ("overlap", pa.string()),
        ]
    )
    rows = []
    for one in responses:
        texts = {name: storable(getattr(one, name)) for name in ("prompt", "thought", "answer")}
        rows.append(asdict(one) | texts | {"overlap": overlap.get((one.axis, one.set, one.item))})
    with replacing(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
