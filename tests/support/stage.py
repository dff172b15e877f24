"""A stage run with a scripted engine: its config, its rows, its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from axolotl.utils.dict import DictDefault
from transformers import AutoTokenizer

from axolotl_safety.config.validate import prepare_config
from support import tiny


def config(tmp_path: Path, model: Path, rows: list[Any] | Path, **safety: Any) -> DictDefault:
    """A final Axolotl config, as far as the stage reads it."""
    path = rows if isinstance(rows, Path) else tiny.write_rows(tmp_path / "rows.jsonl", rows)
    method = safety.pop("method", "dgr")
    extra = safety.pop("top", {})
    entry = {"path": str(path), "type": f"axolotl_safety.{method}"} | safety.pop("entry", {})
    section = {"work_dir": str(tmp_path / "work"), "guard": {"model": "builtin"}} | safety
    cfg = DictDefault({"base_model": str(model), "sequence_len": 512, "datasets": [entry], "safety": section} | extra)
    prepare_config(cfg)
    return DictDefault(cfg.to_dict())


def scripted(model: Path, style: str):
    """A function that starts a scripted engine, and the list of engines it started."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    engines: list[tiny.ScriptedEngine] = []

    def start(*_: Any) -> tiny.ScriptedEngine:
        engines.append(tiny.ScriptedEngine(tiny.refusing_answer(tokenizer, style == "r1", tokenizer.eos_token_id)))
        return engines[-1]

    return start, engines


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def manifest_of(output: dict[str, Any]) -> dict[str, Any]:
    return json.loads((Path(output["train"]).parent / "manifest.json").read_text())


def rows_of(output: dict[str, Any]) -> list[dict[str, Any]]:
    return pq.read_table(Path(output["train"]).parent / "rows.parquet").to_pylist()


def scripted_by_prompt(model: Path, answer: Any) -> Any:
    """A function that starts an engine answering by the text of the prompt it is shown."""
    tokenizer = AutoTokenizer.from_pretrained(model)

    def ids(request: Any) -> tuple[int, ...]:
        shown = tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False)
        return (*tokenizer.encode(answer(shown, request), add_special_tokens=False), tokenizer.eos_token_id)

    return lambda *_: tiny.ScriptedEngine(ids)


def safechain_rows(count: int) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"How do I {'jinx' if index % 2 else 'polish'} the lamp number {index}?",
            "label": "vanilla_harmful" if index % 2 else "vanilla_benign",
            "response": "foreign thought</think>foreign answer",
        }
        for index in range(count)
    ]


def thinksafe_answer(shown: str, request: Any) -> str:
    """Refuses harm half of the time when steered, a tenth of the time unsteered; helps with polishing."""
    number = tiny.draw(request.request_id, 1000)
    thought = f"<think>\nThey ask for something, case {number}.\n</think>\n\n"
    steered = "You should refuse" in shown
    if "jinx" in shown and number % (2 if steered else 10) == 0:
        return thought + f"I can't help with that, case {number}."
    return thought + f"Take a soft cloth and rub it, case {number}."
