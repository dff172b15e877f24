"""``--measure-shift``: how far a dataset's references are from what the target would write, before paying for anything.

DGR's thesis is that this distance is what safety tuning costs (arXiv 2602.02136); the unit is the mean negative
log-probability per token of a reference behind the raw prompt, under the frozen target at temperature 1.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from axolotl_safety.data.entries import Entry
from axolotl_safety.data.types import Key, Task
from axolotl_safety.engines.base import Engine
from axolotl_safety.engines.choose import start_engine
from axolotl_safety.engines.progress import Progress
from axolotl_safety.engines.queue import WorkQueue, score_request
from axolotl_safety.methods.run import bounded
from axolotl_safety.pipeline.inputs import StageInputs
from axolotl_safety.pipeline.ranks import exclusive
from axolotl_safety.pipeline.stage import start_inputs
from axolotl_safety.util.errors import DataError
from axolotl_safety.util.files import writing_in
from axolotl_safety.util.interrupt import interruptible
from axolotl_safety.util.loop import run_async

from .expect import LABELS
from .requests import take_rows

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ShiftFigures:
    """NLL per token of some references, in nats.

    Attributes:
        source: the dataset.
        entry: its index in the YAML.
        label: ``harmful``, ``benign``, ``any`` (nobody says) or ``all``.
        rows: references that were scored.
        unscored: those that could not be.
        quantiles: at 5, 25, 50, 75 and 95 %.
    """

    source: str
    entry: int
    label: str
    rows: int
    unscored: int
    mean: float
    sd: float
    quantiles: tuple[float, ...]


def measure_shift(
    cfg: Any, inputs: StageInputs, count: int, make_engine: Callable[..., Engine] = start_engine
) -> list[ShiftFigures]:
    """Score a sample of every entry's references; the scores stay in the journal, and the stage uses them again.

    Args:
        cfg: the final Axolotl config.
        inputs: the stage, with an engine.
        count: references per dataset entry.
        make_engine: how an engine is started; tests script one.

    Raises:
        DataError: no dataset has a reference.
        StageError: the disk does not take what is written.
    """
    with_references = [_with_references(inputs, entry) for entry in inputs.entries]
    entries = [entry for entry in with_references if entry.tasks]
    if not entries:
        raise DataError("no dataset here has a response to measure; name its column: safety: {response_field: ...}.")
    sample = take_rows(replace(inputs, entries=tuple(entries)), count)
    alone = replace(sample, guards=[])
    with interruptible(f"axolotl safety-plan {cfg.axolotl_config_path} --measure-shift {count}"):
        with exclusive(inputs.work_dir), writing_in(inputs.work_dir):
            queue = WorkQueue(alone.open_journals(), lambda: start_inputs(alone, make_engine))
            found = run_async(_nlls(sample, queue))
    return [figures for entry in sample.entries for figures in _figures(entry, found)]


def _with_references(inputs: StageInputs, entry: Entry) -> Entry:
    """Only the rows that have a reference; ThinkSafe sets it aside."""
    kept = []
    for task in entry.tasks:
        ids = task.reference_ids
        said = (task.example.thought, task.example.answer)
        if ids is None and task.example.answer and not inputs.tokens.has_control_token(*said):
            ids = inputs.tokens.response_ids(*said)
        window = inputs.files.max_positions or inputs.sequence_len
        if ids and len(task.prompt_ids) + len(ids) <= min(window, inputs.sequence_len):
            kept.append(replace(task, reference_ids=ids))
    return replace(entry, tasks=tuple(kept))


async def _nlls(sample: StageInputs, queue: WorkQueue) -> dict[Key, float | None]:
    tasks = [task for entry in sample.entries for task in entry.tasks]

    async def nll(task: Task) -> float | None:
        found = await queue.nll(score_request(sample.fingerprint, task.prompt_ids, task.reference_ids or ()))
        progress.done()
        return found

    async with queue:
        with Progress("references scored", len(tasks), queue) as progress:
            return dict(zip([task.key for task in tasks], await bounded(tasks, nll), strict=True))


def _figures(entry: Entry, found: dict[Any, float | None]) -> list[ShiftFigures]:
    groups = {label: [task for task in entry.tasks if task.label == label] for label in LABELS}
    groups["all"] = list(entry.tasks)
    made = []
    for label, tasks in groups.items():
        values = [value for task in tasks if (value := found[task.key]) is not None]
        if not values:
            continue
        made.append(
            ShiftFigures(
                entry.source.name,
                entry.index,
                label,
                len(values),
                len(tasks) - len(values),
                statistics.fmean(values),
                statistics.stdev(values) if len(values) > 1 else 0.0,
                tuple(float(value) for value in np.quantile(values, _QUANTILES)),
            )
        )
    return made
