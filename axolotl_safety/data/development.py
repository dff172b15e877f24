"""Development prompts: what ``safety.stop`` judges training by, and what is therefore not trained on.

Unless files are named they are rows of the stage's own sources: the last in the order of the draw, so that where
``max_rows`` takes fewer rows than there are, nothing that would be trained on is missing. Every row with such a prompt,
in any entry of our types, is left out of training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from axolotl_safety.config import DatasetOptions, SafetyConfig
from axolotl_safety.util.errors import ConfigError, DataError
from axolotl_safety.util.files import write_atomically

from .entries import EntryReader, prompt_key, raw_prompt_ids
from .examples import BadRow, choose_adapter, read_example
from .refusal.languages import knows
from .sources import read_source, seeded_order
from .tokenizer import TargetTokenizer
from .types import Task

LOG = logging.getLogger(__name__)
_LOOKED_AT = 4  # times as many rows as are wanted: a source that has fewer of a label holds it by accident
_KINDS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class DevelopmentPrompt:
    """One prompt that training is judged by.

    Attributes:
        label: ``harmful`` or ``benign``.
        key: see `prompt_key`.
        prompt_ids: its generation prompt.
        source: the dataset or file that it is from.
    """

    label: str
    prompt: str
    key: str
    prompt_ids: tuple[int, ...]
    source: str


@dataclass(frozen=True)
class Development:
    """What the trainer needs to judge itself.

    Attributes:
        prompts: in the order in which they are asked.
        stop_token_ids: what ends a response.
        trained: rows that are trained on, by label.
    """

    prompts: tuple[DevelopmentPrompt, ...]
    stop_token_ids: tuple[int, ...]
    trained: Mapping[str, int]

    def write(self, path: Path) -> None:
        """Keep it as JSON."""
        write_atomically(path, json.dumps(asdict(self)).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Development:
        """What `write` has kept.

        Raises:
            OSError: it is not there.
        """
        said = json.loads(path.read_text(encoding="utf-8"))
        prompts = tuple(DevelopmentPrompt(**one | {"prompt_ids": tuple(one["prompt_ids"])}) for one in said["prompts"])
        return cls(prompts, tuple(said["stop_token_ids"]), said["trained"])


def development_prompts(
    cfg: Any, safety: SafetyConfig, tokens: TargetTokenizer, readers: Sequence[EntryReader]
) -> tuple[DevelopmentPrompt, ...]:
    """As many prompts of each label as ``safety.stop`` asks for.

    Raises:
        ConfigError: a file is not there, or there are too few prompts.
    """
    stop = safety.stop
    assert stop is not None
    found: list[DevelopmentPrompt] = []
    for label in stop.labels:
        named = stop.named(label)
        pools = [_from_file(cfg, safety, tokens, path, label) for path in named]
        pools = pools or [_held_out(reader, label, stop.prompts) for reader in readers]
        chosen = _in_turn(pools, stop.prompts, {one.key for one in found})
        if len(chosen) < stop.prompts:
            raise ConfigError(_too_few(label, len(chosen), stop.prompts, named))
        found += chosen
        if unknown := sum(not knows(one.prompt) for one in chosen):
            LOG.warning(
                "safety.stop: %d of %d %s development prompts are in a language of which the refusal detector does not "
                "know how it refuses; answers in it count as no refusal. Name prompts in a language that it knows.",
                *(unknown, len(chosen), label),
            )
        sources = ", ".join(dict.fromkeys(one.source for one in chosen))
        LOG.info(
            "safety.stop: %d %s development prompts %s %s",
            *(len(chosen), label, "from" if named else "held out of", sources),
        )
    return tuple(found)


def without_met(prompts: Sequence[DevelopmentPrompt], met: Mapping[str, str]) -> tuple[DevelopmentPrompt, ...]:
    """The prompts that stand in no evaluation set, which must not be what training was ended by.

    Args:
        prompts: of both labels.
        met: by key, the set that a prompt stands in.

    Raises:
        ConfigError: fewer than half of a label are left.
    """
    kept = tuple(one for one in prompts if one.key not in met)
    for label in dict.fromkeys(one.label for one in prompts):
        before, after = (sum(one.label == label for one in some) for some in (prompts, kept))
        if 2 * after < before:
            raise ConfigError(
                f"safety.stop: {before - after} of {before} {label} development prompts stand in sets of safety.eval "
                f"({', '.join(sorted(set(met.values())))}): training would be ended by what it is evaluated on. Name "
                f"other prompts, safety.stop: {{{label}: ...}}, or another evaluation set."
            )
    if len(kept) < len(prompts):
        LOG.warning(
            "safety.stop: %d of %d development prompts stand in sets of safety.eval (%s) and are not asked",
            *(len(prompts) - len(kept), len(prompts), ", ".join(sorted(set(met.values())))),
        )
    return kept


def _too_few(label: str, count: int, wanted: int, named: Collection[str]) -> str:
    if named:
        return (
            f"safety.stop needs {wanted} {label} development prompts, and {', '.join(named)} hold {count} that can be "
            "asked. Add some" + (f", or set safety.stop: {{prompts: {count}}}." if count else ".")
        )
    return (
        f"safety.stop needs {wanted} {label} development prompts, and only {count} can be held out: they are taken of "
        "the half of each dataset of our types that is drawn last, never of rows without a label or in another type of "
        f"dataset. Name a file of them, safety.stop: {{{label}: prompts.jsonl}}, or set a smaller prompts"
        + (", or over_refusal: 100, which asks no benign ones." if label == "benign" else ".")
    )


def _in_turn(
    pools: Sequence[Iterator[DevelopmentPrompt]], count: int, known: Collection[str]
) -> list[DevelopmentPrompt]:
    """The first prompts of all pools, one of each in turn; none twice."""
    chosen: dict[str, DevelopmentPrompt] = {}
    for turn in zip_longest(*pools):
        for prompt in turn:
            if prompt is not None and prompt.key not in known and len(chosen) < count:
                chosen.setdefault(prompt.key, prompt)
        if len(chosen) == count:
            break
    return list(chosen.values())


def _held_out(reader: EntryReader, label: str, count: int) -> Iterator[DevelopmentPrompt]:
    order = reader.drawn()
    last = order[len(order) // 2 :][::-1]
    for place in islice((one for one in last if one not in reader.held), _LOOKED_AT * count):
        task = reader.prepare(place)
        if isinstance(task, Task) and task.label == label:
            example = task.example
            yield DevelopmentPrompt(label, example.prompt, prompt_key(example), task.prompt_ids, task.source)


def _from_file(
    cfg: Any, safety: SafetyConfig, tokens: TargetTokenizer, path: str, label: str
) -> Iterator[DevelopmentPrompt]:
    """The prompts of a file or hub dataset, drawn by seed; its columns are read as those of a dataset entry are."""
    from axolotl.utils.dict import DictDefault

    local = Path(path).expanduser()
    kind = _KINDS.get(local.suffix.lower())
    if kind and not local.is_file():
        raise ConfigError(f"safety.stop.{label}: {path!r} is not there. Give the path of a file.")
    entry = DictDefault({"path": str(local) if kind else path, "ds_type": kind})
    options = DatasetOptions(label=label)
    try:
        source = read_source(entry, cfg.hf_use_auth_token, safety.seed)
        adapter = choose_adapter(source.columns, options, path)
    except DataError as error:
        raise ConfigError(f"safety.stop.{label}: {error}") from error
    places = {row_id: place for place, row_id in enumerate(source.row_ids)}
    for row_id in seeded_order(source.row_ids, safety.seed):
        read = read_example(source.rows[places[row_id]], row_id, adapter, options, tokens.thinking, False)
        if isinstance(read, BadRow) or tokens.has_control_token(read.prompt, *(text for _, text in read.history)):
            continue
        ids = raw_prompt_ids(tokens, read)
        if not isinstance(ids, str) and len(ids) + 1 < cfg.sequence_len:
            yield DevelopmentPrompt(label, read.prompt, prompt_key(read), ids, path)
