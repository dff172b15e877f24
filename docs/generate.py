"""Write what is not written by hand: ``make docs``.

docs/configuration.md comes from the pydantic models of the ``safety:`` section; the table of what was run in
docs/compatibility.md from the records in docs/runs, which ``make test RECORD=docs/runs`` leaves.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this tree's package, whatever is installed

from axolotl_safety.config import AUTO, DatasetOptions, SafetyConfig
from axolotl_safety.config import types as own_types
from axolotl_safety.config.engine import BACKENDS
from axolotl_safety.config.grpo_conflicts import GRPO_TYPE, REWARDS
from axolotl_safety.config.guard import family_words
from axolotl_safety.config.hinges import BENIGN_HINGES, HARMFUL_HINGES
from axolotl_safety.config.prompts import REWRITE_PROMPTS, STEERING_PROMPTS
from axolotl_safety.data.examples import ADAPTERS

TARGET = Path(__file__).with_name("configuration.md")
COMPATIBILITY = Path(__file__).with_name("compatibility.md")
RUNS = Path(__file__).with_name("runs")
_BEGIN, _END = "<!-- runs, by `make docs` -->", "<!-- end of runs -->"
_SHOWN = ("axolotl", "python", "torch", "transformers", "trl", "peft", "datasets", "ray")
_NOT_BY_HAND = {"per_dataset", "command_line"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
# Texts that must be one of these.
_NAMED = {"guard.family": family_words(), "engine.backend": ("auto", *BACKENDS)}
_WORDS = {str: "text", int: "integer", float: "number", bool: "true, false", dict[str, Any]: "mapping"}
# What a changed value means for what the journal holds. A key that is not here takes its section's word.
EFFECTS = {
    "work_dir": "no",
    "seed": "anew",
    "max_rows": "more",
    "select": "more",
    "choice": "training",
    "max_hours": "no",
    "engine": "no",
    "engine.backend": "anew",
    "engine.ray_worker": "anew",
    "engine.dtype": "anew",
    "engine.quantization": "anew",
    "engine.model": "anew",
    "engine.max_model_len": "more",
    "sampling": "anew",
    "guard": "verdicts",
    "guard.api_key_env": "no",
    "guard.concurrency": "no",
    "guard.timeout_seconds": "no",
    "dgr": "more",
    "dgr.prompt": "anew",
    "dgr.sampling": "anew",
    "thinksafe": "more",
    "thinksafe.sampling": "anew",
    "recover": "more",
    "recover.prompt": "anew",
    "recover.sampling": "anew",
    "kl": "training",
    "stop": "training",
    "stop.prompts": "more",
    "stop.over_refusal": "more",
    "stop.harmful": "more",
    "stop.benign": "more",
    "think": "anew",
    "eval": "evaluation",
    "datasets": "more",
    "datasets.prompt_field": "anew",
    "datasets.response_field": "anew",
    "datasets.thought_field": "anew",
}
_TYPE_NOTES = {
    "axolotl_safety.dgr": "the model rewrites the row's response (needs one)",
    "axolotl_safety.thinksafe": "the model answers the prompt, steered where it is harmful (needs a label, or `any`)",
    "axolotl_safety.recover": "the model goes on from a thought of its own that went wrong, cut, and finds a way back "
    "(needs a label, or `any`)",
    "axolotl_safety.vanilla": "the row as it is; nothing is generated or judged",
    GRPO_TYPE: "prompts for `rl: grpo`; no data stage",
}
_HEAD = """# Configuration

Generated from the models in `axolotl_safety/config` by `make docs`; do not edit by hand.

Everything stands under `safety:` in an Axolotl YAML, and every key is optional. An unknown key is an error that
names the one that was meant. Axolotl's own keys are read and not repeated: `base_model`, `tokenizer_config`,
`revision_of_model`, `trust_remote_code`, `sequence_len`, `sample_packing`, `datasets` (with `path`, `split`, `name`,
`revision`, `data_files`, `ds_type`, `shards`).

The last column says what a changed value means for what is finished. The journal keeps everything, so that a value that
comes back finds its old completions.

| word | meaning |
|---|---|
| anew | completions are asked anew: it is part of their identity |
| more | other rows, prompts or candidates may be asked; what is finished and still wanted is kept |
| verdicts | completions stay; verdicts are asked or read anew, and rows that lose theirs are asked for again |
| training | what is trained on, or how; scores may be asked, no completion |
| evaluation | the completions of `axolotl safety-eval` alone |
| no | nothing |
"""


def keys(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo, type[BaseModel] | None]]:
    """Every key below a model: its dotted path, its field, and the model that it holds, if any."""
    for name, field in model.model_fields.items():
        if name in _NOT_BY_HAND:
            continue
        below = _model_in(field.annotation)
        yield f"{path}{name}", field, below
        if below is not None:
            yield from keys(below, f"{path}{name}.")


def effect(path: str) -> str:
    """The word of a key, or of the nearest section above it.

    Raises:
        KeyError: neither has one; write it into EFFECTS.
    """
    place = path
    while place not in EFFECTS:
        if "." not in place:
            raise KeyError(f"{path}: say in EFFECTS of docs/generate.py what a changed value means")
        place = place.rpartition(".")[0]
    return EFFECTS[place]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in get_args(annotation) if part is not type(None))
    if origin is tuple:
        return f"list of {_kind(get_args(annotation)[0])}"
    return _WORDS[annotation]


def _default(value: Any) -> str:
    if value in (None, ""):
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`[{', '.join(value)}]`" if isinstance(value, tuple) else f"`{value}`"


def _row(path: str, field: FieldInfo) -> str:
    bounds = [f"{sign} {getattr(rule, name)}" for rule in field.metadata for name, sign in _BOUNDS.items()
              if hasattr(rule, name)]  # fmt: skip
    words = ", ".join(f"`{word}`" for word in _NAMED[path]) if path in _NAMED else _kind(field.annotation)
    kind = ", ".join([words, *bounds])
    name = path.rpartition(".")[2]
    return f"| `{name}` | {kind} | {_default(field.default)} | {field.description} | {effect(path)} |"


def _table(model: type[BaseModel], path: str) -> list[str]:
    plain = [(name, field) for name, field in model.model_fields.items() if name not in _NOT_BY_HAND]
    rows = [_row(f"{path}{name}", field) for name, field in plain if _model_in(field.annotation) is None]
    return ["| key | values | default | what | changes |", "|---|---|---|---|---|", *rows, ""]


def _section(model: type[BaseModel], path: str, listed: bool) -> list[str]:
    said = " ".join((model.__doc__ or "").replace("``", "`").split())
    lines = [f"## `{path}`", "", f"{said}{' One mapping, or a list of them.' if listed else ''}", ""]
    return lines + _table(model, f"{path.removeprefix('safety').removeprefix('.')}.".removeprefix("."))


_FORMATS = """A prompt or response is text, or a list of turns as TRL writes them
(`[{"role": "user", "content": ...}]`), or JSON text of such a list. A column of prompts may hold whole conversations
where no column of responses is read beside it. Files are JSON lines, a JSON list, one JSON object of columns
(`{"prompt": [...], "response": [...]}`), CSV, TSV, Parquet, or what `save_to_disk` writes, where `split:` and its
slices count. Numbered classes (`ClassLabel`) are read by their names."""


def render() -> str:
    """The whole page."""
    shown: dict[type[BaseModel], str] = {}
    lines = [_HEAD, *_section(SafetyConfig, "safety", False)]
    for path, field, below in keys(SafetyConfig):
        if below is not None and below in shown:
            lines += [f"## `safety.{path}`", "", f"The keys of `{shown[below]}`; what is set here counts first.", ""]
        elif below is not None:
            shown[below] = f"safety.{path}"
            lines += _section(below, f"safety.{path}", get_origin(field.annotation) is tuple)
    lines += ["## A dataset entry", "", "| `type` | what becomes of a row |", "|---|---|"]
    lines += [f"| `{name}` | {_TYPE_NOTES[name]} |" for name in (*own_types(), GRPO_TYPE)]
    lines += ["", "Its columns say how it is read; the first line whose columns are all there is taken:", ""]
    lines += ["| read as | columns |", "|---|---|"]
    lines += [f"| {one.name} | {', '.join(f'`{column}`' for column in sorted(one.columns))} |" for one in ADAPTERS]
    lines += ["", _FORMATS, ""]
    lines += ["Its own block, `safety:` in the entry:", "", *_table(DatasetOptions, "datasets.")]
    lines += ["## Names", "", "| where | names |", "|---|---|"]
    names = {"safety.dgr.prompt": [*REWRITE_PROMPTS, AUTO], "safety.thinksafe.ladder": [*STEERING_PROMPTS, AUTO],
             "safety.recover.hinges": HARMFUL_HINGES, "safety.recover.benign_hinges": BENIGN_HINGES,
             "trl.reward_funcs": REWARDS}  # fmt: skip
    lines += [f"| `{where}` | {', '.join(f'`{name}`' for name in found)} |" for where, found in names.items()]
    return "\n".join(lines) + "\n"


def with_runs(text: str) -> str:
    """The compatibility page with its table of recorded runs made anew; their newest Axolotl stands first."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in RUNS.glob("*.json")]
    records.sort(key=lambda one: (one["versions"]["axolotl"], one["tests"]), reverse=True)
    lines = [
        "| " + " | ".join([*_SHOWN, "tests", "passed", "failed", "skipped", "date"]) + " |",
        "|" + "---|" * (len(_SHOWN) + 5),
    ]
    for one in records:
        told = [one["versions"].get(name, "-") for name in _SHOWN]
        told += [one["tests"], *(str(one[name]) for name in ("passed", "failed", "skipped")), one["date"]]
        lines.append("| " + " | ".join(told) + " |")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n" + "\n".join(lines) + f"\n{_END}{after}"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    COMPATIBILITY.write_text(with_runs(COMPATIBILITY.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n{COMPATIBILITY}\n")
