"""Rows of an evaluation set as items with a prompt, an id of their own and, for reasoning, a gold answer."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_safety.config.evaluation import EvalConfig, EvalSetConfig
from axolotl_safety.data.sources import read_source, select_rows
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.util.errors import ConfigError, DataError

from .sets import EvalSet

LOG = logging.getLogger(__name__)
_PLAIN = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Item:
    """One prompt of one set.

    Attributes:
        item_id: hash of what is asked, stable under reordering; doubled prompts get a number.
        row_prompt: the row's own prompt.
        gold: gold answer, empty but for reasoning.
    """

    item_id: str
    row_prompt: str
    prompt: str
    prompt_ids: tuple[int, ...]
    gold: str


@dataclass(frozen=True)
class LoadedSet:
    """A set with the items that are asked.

    Attributes:
        rows: rows of the source that belong to the set.
        items: in the source's order.
        skipped: rows that cannot be asked, by reason.
        sha256: hash of every row that belongs to the set.
    """

    spec: EvalSet
    rows: int
    items: tuple[Item, ...]
    skipped: dict[str, int]
    sha256: str


def read_rows(spec: EvalSet, use_auth_token: bool | None, seed: int) -> list[Any]:
    """The rows that belong to a set.

    Raises:
        ConfigError: it is not there or gated.
        DataError: none of its rows belongs to it.
    """
    from axolotl.utils.dict import DictDefault

    local = Path(spec.path).expanduser()
    kind = _PLAIN.get(local.suffix.lower())
    entry = {"path": str(local) if kind else spec.path, "split": spec.split, "ds_type": kind}
    if kind and not local.is_file():
        raise ConfigError(f"safety.eval: {spec.path!r} of set {spec.name} is not there. Give the path of a file.")
    if not kind:
        entry |= {"name": spec.config, "revision": spec.revision}
    try:
        rows = read_source(DictDefault(entry), use_auth_token, seed).rows
    except DataError as error:
        way = "It is gated: accept its terms on the hub and log in (hf auth login). " if spec.gated else ""
        raise ConfigError(
            f"safety.eval: set {spec.name} cannot be read: {error} {way}A copy of your own serves as well: "
            f"{{name: {spec.name}, path: file}}."
        ) from error
    kept = [row for row in rows if isinstance(row, dict) and (spec.keep is None or spec.keep(row))]
    if not kept:
        raise DataError(
            f"safety.eval: none of the {len(rows)} rows of {spec.path!r} belongs to {spec.name} ({spec.axis}); "
            f"columns: {', '.join(sorted({key for row in rows if isinstance(row, dict) for key in row}))}."
        )
    return kept


def load_set(
    spec: EvalSet,
    block: EvalSetConfig,
    settings: EvalConfig,
    tokens: TargetTokenizer,
    max_positions: int | None,
    use_auth_token: bool | None,
    seed: int,
) -> LoadedSet:
    """Read a set, draw its items and render their prompts.

    Raises:
        ConfigError: it is not there, or lacks a column.
        DataError: no row of it can be asked.
    """
    rows = read_rows(spec, use_auth_token, seed)
    columns = {key for row in rows for key in row}
    prompt_field = _column(spec, spec.prompt_fields, columns, "prompt")
    answer_field = _column(spec, spec.answer_fields, columns, "answer") if spec.axis == "reasoning" else None
    skipped: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    items = []
    for row in rows:
        item = _item(spec, row, prompt_field, answer_field, tokens, max_positions, seen)
        if isinstance(item, str):
            skipped[item] += 1
        else:
            items.append(item)
    if not items:
        raise DataError(f"safety.eval: no row of set {spec.name} can be asked: {dict(skipped)}.")
    chosen = select_rows([item.item_id for item in items], block.max_items or settings.max_items, seed)
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True, default=repr).encode()).hexdigest()
    kept = tuple(item for item in items if item.item_id in chosen)
    LOG.info(
        "evaluation set %s (%s): %d rows, %d asked, %d unusable",
        spec.name,
        spec.axis,
        len(rows),
        len(kept),
        sum(skipped.values()),
    )
    return LoadedSet(spec, len(rows), kept, dict(sorted(skipped.items())), digest)


def asked_texts(spec: EvalSet, rows: list[Any]) -> list[str]:
    """The rows' own prompts, for comparing them with others.

    Raises:
        ConfigError: no column holds them.
    """
    field = _column(spec, spec.prompt_fields, {key for row in rows for key in row}, "prompt")
    return [text for row in rows if isinstance(text := _first_turn(row.get(field)), str)]


def _column(spec: EvalSet, wanted: tuple[str, ...], columns: set[str], what: str) -> str:
    by_lower = {column.lower(): column for column in sorted(columns, reverse=True)}
    for name in wanted:
        if name in columns or name.lower() in by_lower:
            return name if name in columns else by_lower[name.lower()]
    raise ConfigError(
        f"safety.eval: set {spec.name} ({spec.path}) has no {what} column among {', '.join(wanted)}. Name it: "
        f"{what}_field: ... Columns: {', '.join(sorted(columns))}."
    )


def _first_turn(value: Any) -> Any:
    """The prompt where a column holds a conversation: its first user turn, as text or as a mapping with a role."""
    if not isinstance(value, (list, tuple)):
        return value
    turns = [turn for turn in value if not isinstance(turn, dict) or turn.get("role", "user") == "user"]
    first = turns[0] if turns else None
    return first.get("content") if isinstance(first, dict) else first


def _item(
    spec: EvalSet,
    row: dict[str, Any],
    prompt_field: str,
    answer_field: str | None,
    tokens: TargetTokenizer,
    max_positions: int | None,
    seen: Counter[str],
) -> Item | str:
    """One row as an item, or why it cannot be asked."""
    text = _first_turn(row.get(prompt_field))
    if not isinstance(text, str) or not text.strip():
        return "empty_prompt"
    context = row.get(spec.context_field) if spec.context_field else None
    if isinstance(context, str) and context.strip():
        text = f"{context}\n\n---\n\n{text}"  # as HarmBench itself joins them
    gold = row.get(answer_field) if answer_field else ""
    if gold is None or (answer_field and not str(gold).strip()):
        return "no_answer"
    asked = spec.template.replace("{prompt}", text)
    prompt_ids = tokens.prompt_ids(asked)
    if prompt_ids is None:
        return "control_token"
    if max_positions is not None and len(prompt_ids) >= max_positions:
        return "prompt_too_long"
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]
    seen[digest] += 1
    item_id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return Item(item_id, text, asked, prompt_ids, str(gold))
