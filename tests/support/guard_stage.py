"""A stage with a guard model of any family: its config, its folder, a target that refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from axolotl.utils.dict import DictDefault

from axolotl_safety.config.validate import prepare_config
from support import tiny
from support.guards import CUSTOM

NAMES = {
    "qwen3guard": "Qwen3Guard-Gen-tiny",
    "llama_guard": "Llama-Guard-3-tiny",
    "wildguard": "wildguard-tiny",
    "granite_guardian": "granite-guardian-4.1-tiny",
    "nemotron": "Llama-3.1-Nemotron-Safety-Guard-8B-v3-tiny",
    "gpt_oss_safeguard": "gpt-oss-safeguard-tiny",
    "shieldgemma": "shieldgemma-2b-tiny",
    "polyguard": "PolyGuard-Qwen-tiny",
    "custom": "somebodys-own-tiny",
    "custom_chat": "somebodys-chat-tiny",
}


def sound_refusals(tokenizer: Any):
    """A target that always refuses as it should, at once."""

    def answer(request):
        mark = tiny.draw(request.request_id, 1000)
        text = (
            f"<think>\nThe user wants trouble {mark}. That hurts the lamp.\n</think>\n\nI can't help with that, {mark}."
        )
        return (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)

    return answer


def config(tmp_path: Path, model: Path, guard: Any, rows: int = 12) -> DictDefault:
    data = tiny.write_rows(tmp_path / "rows.jsonl", tiny.direct_refusal_rows(rows))
    cfg = {
        "base_model": str(model),
        "sequence_len": 512,
        "datasets": [{"path": str(data), "type": "axolotl_safety.dgr"}],
        "safety": {"work_dir": str(tmp_path / "work"), "guard": guard},
    }
    prepared = DictDefault(cfg)
    prepare_config(prepared)
    return DictDefault(prepared.to_dict())


def guard_folder(tmp_path: Path, model: Path, family: str) -> str:
    """The tiny model under a guard's name, with a window that holds that guard's prompt."""
    folder = tmp_path / NAMES[family]
    shutil.copytree(model, folder)
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | {"max_position_embeddings": 8192}))
    return str(folder)


def guard_block(tmp_path: Path, model: Path, family: str, **more: Any) -> dict[str, Any]:
    """The section of such a guard."""
    own = {"family": "custom", **CUSTOM[family]} if family in CUSTOM else {}
    return {"model": guard_folder(tmp_path, model, family), **own, **more}
