"""From a dataset entry to tasks: rows read, unusable and held-out ones set aside with a reason, ids made."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from axolotl_safety.config import DatasetOptions, SafetyConfig
from axolotl_safety.data.refusal.detector import is_refusal
from axolotl_safety.util.errors import DataError
from axolotl_safety.util.progress import ProgressLine

from .examples import Adapter, BadRow, Example, Label, choose_adapter, read_example
from .labels import CATEGORY_COLUMNS, COLUMNS, row_categories
from .sources import Source, read_source, seeded_order
from .tokenizer import TargetTokenizer
from .types import EXPECTED, UNLABELLED, Expect, Task

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


class EntryReader:
    """The rows of one dataset entry, each prepared when it is asked for.

    Attributes:
        source: its rows.
        options: its own block.
        adapter: how a row is read.
        held: places of the rows of held-out categories.
    """

    def __init__(
        self, cfg: Any, safety: SafetyConfig, tokens: TargetTokenizer, index: int, method: str, reads_reference: bool
    ):
        """Read the source.

        Args:
            cfg: the final Axolotl config.
            safety: its section.
            tokens: the target's tokenizer.
            index: of the entry.
            method: of the entry.
            reads_reference: see `Method`.

        Raises:
            DataError: no column of it can be used, or a held-out category that no row has.
        """
        entry = cfg.datasets[index]
        self.index, self.method, self.options = index, method, safety.options_of(index)
        source = read_source(entry, cfg.hf_use_auth_token, int(cfg.seed or 42))
        self.source = source.weighted(entry.weight, safety.seed)
        self.adapter = choose_adapter(self.source.columns, self.options, self.source.name)
        self.held = _held_out(self.source, self.options)
        self._tokens, self._reads_reference = tokens, reads_reference
        self._seed, self._sequence_len = safety.seed, cfg.sequence_len

    def prepare(self, place: int, without: Container[str] = ()) -> Task | BadRow | None:
        """One row as a task, or why it is none; None if its label was not asked for.

        Args:
            place: in the source.
            without: keys (`prompt_key`) of development prompts, which are not trained on.
        """
        source, options = self.source, self.options
        row_id = source.row_ids[place]
        read = read_example(
            source.rows[place], row_id, self.adapter, options, self._tokens.thinking, self._reads_reference
        )
        if isinstance(read, BadRow):
            return read
        made: Task | str = "held_out"
        if place not in self.held:
            if options.only not in (None, read.label):
                return None
            made = "development"
            if not without or prompt_key(read) not in without:
                made = make_task(self._tokens, read, self._reads_reference, self.index, source.name, self._sequence_len)
        return BadRow(row_id, read.prompt, made, read.categories) if isinstance(made, str) else made

    def drawn(self) -> list[int]:
        """Every place, in the order of the draw."""
        places = {row_id: place for place, row_id in enumerate(self.source.row_ids)}
        return [places[row_id] for row_id in seeded_order(self.source.row_ids, self._seed)]


def read_entry(reader: EntryReader, take: int | None = None, without: Container[str] = ()) -> Entry:
    """Its rows that can be used, or the first of them in the order of the draw.

    Args:
        reader: of the entry.
        take: stop at so many usable rows. A row that was not drawn by then is not looked at, so that the cost follows
            what is taken and not the source.
        without: see `EntryReader.prepare`.

    Raises:
        DataError: no row of it can be used.
    """
    source, adapter, held = reader.source, reader.adapter, reader.held
    bad = {place: row for place in held if isinstance(row := reader.prepare(place), BadRow)}
    tasks: dict[int, Task] = {}
    places = range(len(source.rows)) if take is None else reader.drawn()
    with ProgressLine(f"{source.name}: rows prepared", min(take or len(places), len(places)), LOG) as progress:
        for place in places:
            made = reader.prepare(place, without) if place not in held else None
            if isinstance(made, BadRow):
                bad[place] = made
            elif made is not None:
                tasks[place] = made
            if take is None or place in tasks:
                progress.done()
            if len(tasks) == take:
                break
    if not tasks:
        raise DataError(_nothing_usable(source, adapter, reader.options, [*bad.values()]))
    _log_read(source, adapter, tasks, bad, take)
    order = {row_id: place for place, row_id in enumerate(source.row_ids)}
    usable, unusable = ([found[place] for place in sorted(found)] for found in (tasks, bad))
    return Entry(
        reader.index, reader.method, source, adapter.name, reader.options, tuple(usable), tuple(unusable), order
    )


def prompt_key(example: Example) -> str:
    """What tells a prompt from others: it and the turns before it, by their words in lower case."""
    return "\0".join(" ".join(text.lower().split()) for text in (*(one for _, one in example.history), example.prompt))


def _log_read(source: Source, adapter: Adapter, tasks: Mapping[int, Task], bad: Mapping[int, BadRow], take: int | None):
    reasons = Counter(row.reason for row in bad.values())
    said = "".join(f", {reason} {count}" for reason, count in sorted(reasons.items()))
    taken = f"the first {take} usable in the order of the draw are taken" if len(tasks) == take else "all looked at"
    LOG.info(
        "%s: %d rows read as %s, %s: %d usable, %d not%s",
        *(source.name, len(source.rows), adapter.name, taken, len(tasks), len(bad), said),
    )
    if unlabelled := sum(task.label == UNLABELLED for task in tasks.values()):
        LOG.warning(
            "%s: %d rows do not say whether their prompt is harmful and count as neither: the guard alone decides on "
            "what is made of them, and they are out of the KL. Say what they are: safety: {label: ...} or "
            "{label_field: ...}.",
            source.name,
            unlabelled,
        )


def _held_out(source: Source, options: DatasetOptions) -> set[int]:
    """Places of the rows of held-out categories.

    Raises:
        DataError: a category that no row has; a misspelt one would hold nothing out.
    """
    if not options.hold_out:
        return set()
    filed = [row_categories(row, options.category_field) if isinstance(row, Mapping) else () for row in source.rows]
    found = Counter(name for names in filed for name in names)
    for name in options.hold_out:
        if name not in found:
            column = options.category_field or " or ".join(CATEGORY_COLUMNS)
            seen = ", ".join(repr(word)[:40] for word, _ in found.most_common(20)) or "none"
            raise DataError(
                f"datasets: {source.name!r}: hold_out names {name!r}, and no row has this category. Categories in "
                f"{column}: {seen}. Name another column: safety: {{category_field: ...}}."
            )
    return {place for place, names in enumerate(filed) if not {*options.hold_out}.isdisjoint(names)}


def _nothing_usable(source: Source, adapter: Adapter, options: DatasetOptions, bad: Sequence[BadRow]) -> str:
    reasons = Counter(row.reason for row in bad)
    said = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    if options.only and len(bad) < len(source.rows):
        said = f"only {options.only} was asked for, and no usable row is labelled so" + (f" ({said})" if said else "")
    way = ""
    if {"not_text", "unreadable_messages", "malformed_row"} & reasons.keys():
        way = _formats_seen(source, adapter)
    elif "no_reference" in reasons:
        columns = ", ".join(sorted(source.columns))
        way = f" No response was found; name its column: safety: {{response_field: ...}}. Columns: {columns}."
    elif "no_label" in reasons:
        way = (
            " Say what they are: safety: {label: harmful} or {label: benign}, or {label_field: ...}; or leave it to "
            "the guard: {label: any}."
        )
    elif "unknown_label" in reasons:
        column = options.label_field or next((name for name in COLUMNS if name in source.columns), "")
        seen = {repr(row.get(column))[:40] for row in source.rows[:1000] if isinstance(row, dict)}
        way = (
            f" Labels seen in {column!r}: {', '.join(sorted(seen)[:5])}. Known are words like harmful, unsafe, benign, "
            "safe, and 0/1 in a column named like harmful, toxic or is_benign; else set safety: {label: ...}."
        )
    rows = f"none of the {len(source.rows)} rows of {source.name!r}, read as {adapter.name}, can be used"
    return f"datasets: {rows}: {said}.{way}"


def _formats_seen(source: Source, adapter: Adapter) -> str:
    """What stands in the columns of the first rows, and what could."""
    rows = [row for row in source.rows[:1000] if isinstance(row, Mapping)]
    if not rows:
        return (
            f" The first row is {_shape(source.rows[0])}. A row is a mapping of columns: one JSON object per line, say."
        )
    seen = [
        f"{column!r} holds {_shape(next((row[column] for row in rows if row.get(column) is not None), None))}"
        for column in sorted(adapter.columns)
    ]
    return (
        f" As they are, {', '.join(seen)}. Read are texts, and conversations as lists of turns "
        "{role: user, content: ...} or as JSON text of such a list; name other columns: safety: {prompt_field: ...}."
    )


def _shape(value: Any) -> str:
    """The kind of a value, without what it says."""
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(str, value))}"[:80] if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}, the first {_shape(value[0])}" if value else "an empty list"
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "nothing"}
    return kinds.get(type(value), type(value).__name__)


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

    A row that says nothing of its label is read by its reference: who is refused asked for harm; otherwise nobody
    knows, and the guard alone decides. A method that reads no reference wants the label said, which then decides what
    is refused or helped. For the others, a harmful row whose reference does not refuse (a helpful answer to a worrying
    question, say) leaves the decision to the guard too.
    """
    reference = (example.thought, example.answer) if reads_reference else ()
    if tokens.has_control_token(example.prompt, *reference, *(text for _, text in example.history)):
        return "control_token"
    prompt_ids = raw_prompt_ids(tokens, example)
    if isinstance(prompt_ids, str):
        return prompt_ids
    if len(prompt_ids) + 1 >= sequence_len:
        return "prompt_too_long"
    if not reads_reference:
        own = own_label(example)
        return Task(entry, source, example, own, EXPECTED[own], prompt_ids, None) if own else "no_label"
    if not example.answer:
        return "no_reference"
    reference_ids = tokens.response_ids(example.thought, example.answer)
    if reference_ids is None:
        return "control_token"
    # Looked for only where it decides something: this is what preparing a row costs most.
    refused = example.label not in ("benign", UNLABELLED) and is_refusal(example.answer)
    label = example.label or ("harmful" if refused else UNLABELLED)
    expect: Expect = "any" if label == "harmful" and not refused else EXPECTED[label]
    return Task(entry, source, example, label, expect, prompt_ids, reference_ids)
