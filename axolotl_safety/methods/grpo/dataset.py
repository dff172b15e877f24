"""``type: axolotl_safety.grpo``: prompts for Axolotl's ``rl: grpo``, read by the same adapters as the data stage.

The prompt stays a conversation that ends with a user turn, which TRL renders with the tokenizer's own chat template:
R1's generation prompt holds ``<think>``, Qwen3's does not. A prompt rendered here would be encoded by TRL with
``add_special_tokens`` and get a second beginning-of-sequence token on R1-Distill.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from axolotl_safety.config import DatasetOptions, Label, ThinkConfig
from axolotl_safety.data.entries import own_label, raw_prompt_ids
from axolotl_safety.data.examples import BadRow, Example, choose_adapter, read_examples
from axolotl_safety.data.math_answers import gold_answer
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.data.types import UNLABELLED
from axolotl_safety.util.errors import ConfigError, DataError

from .context import trainer_tokens

LOG = logging.getLogger(__name__)

Batch = dict[str, list[Any]]
Transform = Callable[..., Batch]


def load(cfg: Any, dataset_idx: int = 0, **kwargs: Any) -> tuple[Transform, dict[str, Any]]:
    """Axolotl's entry point for our type under ``rl: grpo``.

    Returns:
        A function for ``datasets.Dataset.map`` (columns in; ``prompt``, ``label`` and ``answer`` out) and its options.

    Raises:
        ConfigError: the YAML does not list the plugin, or leaves no room for a prompt.
    """
    from axolotl_safety.config.section import require_plugin, section, template_kwargs

    entry = cfg.datasets[dataset_idx]
    require_plugin(f"type {entry.type}")
    safety = section(cfg)
    room = int(cfg.sequence_len) - int((cfg.trl or {}).get("max_completion_length") or 0)
    if room < 1:
        raise ConfigError(
            f"sequence_len {cfg.sequence_len} leaves no room for a prompt beside trl.max_completion_length "
            f"{cfg.trl.max_completion_length}. Set sequence_len to their sum, 1,024 for the prompt for instance."
        )
    values = template_kwargs(cfg, safety)
    transform = make_transform(str(entry.path), safety.options_of(dataset_idx), safety.think, room, values)
    return transform, {"batched": True, "remove_columns": "__all__"}


def make_transform(
    source: str,
    options: DatasetOptions,
    think: ThinkConfig | None,
    max_prompt_tokens: int,
    values: Mapping[str, Any] = MappingProxyType({}),
) -> Transform:
    """The function that turns source rows into GRPO rows; longer prompts are dropped, because TRL does not cut them."""

    def transform(columns: Batch, tokenizer: Any) -> Batch:
        tokens = trainer_tokens(tokenizer, think, values)
        names = list(columns)
        rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        adapter = choose_adapter(names, options, f"datasets: {source!r}")
        kept: Batch = {"prompt": [], "label": [], "answer": []}
        dropped: Counter[str] = Counter()
        for read in read_examples(rows, adapter, options, tokens.thinking, needs_response=False):
            row = _row(read, tokens, max_prompt_tokens, options.only)
            if isinstance(row, str):
                dropped[row] += 1
                continue
            for name, value in row.items():
                kept[name].append(value)
        if dropped:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
            LOG.warning("datasets: %r: %d of %d rows left out: %s", source, sum(dropped.values()), len(rows), reasons)
        if rows and dropped["no_label"] == len(rows):
            raise DataError(
                f"datasets: {source!r}: no row says whether its prompt is harmful. Set it on this entry: "
                "safety: {label: harmful} (or benign), or name the column: safety: {label_field: ...}."
            )
        return kept

    return transform


def _row(
    read: Example | BadRow, tokens: TargetTokenizer, max_prompt_tokens: int, only: Label | None
) -> dict[str, Any] | str:
    """A GRPO row, or why there is none."""
    if isinstance(read, BadRow):
        return read.reason
    label = own_label(read)
    if label is None:
        return "no_label"
    if only and label != only:
        return f"not_{only}"
    ids = raw_prompt_ids(tokens, read)
    if isinstance(ids, str):
        return ids
    if len(ids) > max_prompt_tokens:
        return "prompt_too_long"
    turns = (*read.history, ("user", read.prompt))
    return {
        "prompt": [{"role": role, "content": text} for role, text in turns],
        "label": None if label == UNLABELLED else label,
        "answer": gold_answer(read.answer) if label == "benign" else None,
    }
