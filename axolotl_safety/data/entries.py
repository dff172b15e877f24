"""From a dataset entry to tasks: rows read, unusable and held-out ones set aside with a reason, ids made."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from axolotl_safety.config import DatasetOptions, SafetyConfig
from axolotl_safety.data.refusal.detector import is_refusal
from axolotl_safety.util.errors import DataError

from .examples import Adapter, BadRow, Example, Label, choose_adapter, read_examples
from .labels import CATEGORY_COLUMNS, COLUMNS
from .sources import Source, read_source
from .tokenizer import TargetTokenizer
from .types import Expect, Task

LOG = logging.getLogger(__name__)

_SAMPLE_ROWS = 24


@dataclass(frozen=True)
class Entry:
    """One dataset entry of our types, read: its rows as tasks, those that cannot be used, and the source's order."""

    index: int
    method: str
    source: Source
    adapter: str
    options: DatasetOptions
    tasks: tuple[Task, ...]
    bad: tuple[BadRow, ...]
    order: Mapping[str, int]

    def sample_texts(self) -> list[str]:
        """Texts of the first rows, for the tokenizer check."""
        examples = [task.example for task in self.tasks[:_SAMPLE_ROWS]]
        texts = [(example.prompt, f"{example.thought}\n\n{example.answer}") for example in examples]
        return [text for pair in texts for text in pair if text.strip()]


def read_entry(
    cfg: Any, safety: SafetyConfig, tokens: TargetTokenizer, index: int, method: str, reads_reference: bool
) -> Entry:
    """Read one dataset entry: every row of it that can be used; `selection` takes `max_rows` of them.

    Raises:
        DataError: no column or no row of it can be used, or a held-out category that no row has.
    """
    entry = cfg.datasets[index]
    options = safety.options_of(index)
    source = read_source(entry, cfg.hf_use_auth_token, int(cfg.seed or 42))
    adapter = choose_adapter(source.columns, options, source.name)
    rows = read_examples(source.rows, adapter, options, tokens.thinking)
    bad = [row for row in rows if isinstance(row, BadRow)]
    examples = [row for row in rows if isinstance(row, Example)]
    _check_held_out(source, options, examples)
    tasks: list[Task] = []
    for example in examples:
        held = not {*options.hold_out}.isdisjoint(example.categories)
        made = "held_out" if held else make_task(tokens, example, reads_reference, index, source.name, cfg.sequence_len)
        if isinstance(made, str):
            bad.append(BadRow(example.row_id, example.prompt, made, example.categories))
        else:
            tasks.append(made)
    if options.only:
        tasks = [task for task in tasks if task.example.label == options.only]
    if not tasks:
        raise DataError(_nothing_usable(source, adapter, options, bad))
    read, usable, unusable = len(source.rows), len(tasks), len(bad)
    LOG.info("%s: %d rows read as %s, %d usable, %d not", source.name, read, adapter.name, usable, unusable)
    order = {row.row_id: place for place, row in enumerate(rows)}
    return Entry(index, method, source, adapter.name, options, tuple(tasks), tuple(bad), order)


def _check_held_out(source: Source, options: DatasetOptions, examples: Sequence[Example]) -> None:
    """A misspelt category would hold nothing out."""
    found = Counter(name for example in examples for name in example.categories)
    for name in options.hold_out:
        if name not in found:
            column = options.category_field or " or ".join(CATEGORY_COLUMNS)
            seen = ", ".join(repr(word)[:40] for word, _ in found.most_common(20)) or "none"
            raise DataError(
                f"datasets: {source.name!r}: hold_out names {name!r}, and no row has this category. Categories in "
                f"{column}: {seen}. Name another column: safety: {{category_field: ...}}."
            )


def _nothing_usable(source: Source, adapter: Adapter, options: DatasetOptions, bad: Sequence[BadRow]) -> str:
    reasons = Counter(row.reason for row in bad)
    said = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    if options.only and len(bad) < len(source.rows):
        said = f"only {options.only} was asked for, and no usable row is labelled so" + (f" ({said})" if said else "")
    way = ""
    if "no_reference" in reasons:
        columns = ", ".join(sorted(source.columns))
        way = f" No response was found; name its column: safety: {{response_field: ...}}. Columns: {columns}."
    elif "no_label" in reasons:
        way = " Say what they are: safety: {label: harmful} or {label: benign}, or {label_field: ...}."
    elif "unknown_label" in reasons:
        column = options.label_field or next((name for name in COLUMNS if name in source.columns), "")
        seen = {repr(row.get(column))[:40] for row in source.rows[:1000] if isinstance(row, dict)}
        way = (
            f" Labels seen in {column!r}: {', '.join(sorted(seen)[:5])}. Known are words like harmful, unsafe, benign, "
            "safe, and 0/1 in a column named like harmful, toxic or is_benign; else set safety: {label: ...}."
        )
    rows = f"none of the {len(source.rows)} rows of {source.name!r}, read as {adapter.name}, can be used"
    return f"datasets: {rows}: {said}.{way}"


def own_label(example: Example) -> Label | None:
    """The label where row or user say so, or where the reference refuses; None otherwise.

    A prompt is never taken for harmless without a word: it would be asked for an answer.
    """
    if example.label is not None and not example.assumed:
        return example.label
    return "harmful" if is_refusal(example.answer) else None


def raw_prompt_ids(tokens: TargetTokenizer, example: Example) -> tuple[int, ...] | str:
    """Ids of the generation prompt for a row's raw prompt, or the reject reason."""
    try:
        return tokens.prompt_ids(example.prompt, history=example.history) or "control_token"
    except TemplateError:
        return "template_refuses"


def make_task(
    tokens: TargetTokenizer, example: Example, reads_reference: bool, entry: int, source: str, sequence_len: int
) -> Task | str:
    """Ids for a row, or its reject reason.

    A row that says nothing of its label is read by its reference: who is refused asked for harm. A method that reads
    no reference takes a prompt for harmless only where row or user say so; the label alone decides what is refused or
    helped. For the others, a harmful row whose reference does not refuse (a helpful answer to a worrying question, say)
    leaves the decision to the guard.
    """
    reference = (example.thought, example.answer) if reads_reference else ()
    if tokens.has_control_token(example.prompt, *reference, *(text for _, text in example.history)):
        return "control_token"
    prompt_ids = raw_prompt_ids(tokens, example)
    if isinstance(prompt_ids, str):
        return prompt_ids
    if len(prompt_ids) + 1 >= sequence_len:
        return "prompt_too_long"
    refused = is_refusal(example.answer)
    label = example.label or ("harmful" if refused else "benign")
    if not reads_reference:
        if own_label(example) is None:
            return "no_label"
        expect: Expect = "answer" if label == "benign" else "refuse"
        return Task(entry, source, example, label, expect, prompt_ids, None)
    if not example.answer:
        return "no_reference"
    reference_ids = tokens.response_ids(example.thought, example.answer)
    if reference_ids is None:
        return "control_token"
    expect = "answer" if label == "benign" else "refuse" if refused else "any"
    return Task(entry, source, example, label, expect, prompt_ids, reference_ids)
