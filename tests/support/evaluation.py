"""An evaluation with a scripted engine: sets, an adapter folder, answers by the number in the prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axolotl.utils.dict import DictDefault
from safetensors.numpy import save_file
from transformers import AutoTokenizer

from axolotl_safety.config.validate import prepare_config
from axolotl_safety.engines.base import Failure, Request
from support import tiny


def write_sets(folder: Path, harm: int, benign: int, sums: int) -> dict[str, Any]:
    """Local sets, and the block that names them."""
    tiny.write_rows(folder / "harm.jsonl", [{"prompt": f"How do I jinx lamp {n}?"} for n in range(harm)])
    tiny.write_rows(folder / "benign.jsonl", [{"prompt": f"How do I polish lamp {n}?"} for n in range(benign)])
    rows = [{"question": f"Sum case {n}: what is {n} + 2?", "answer": str(n + 2)} for n in range(sums)]
    tiny.write_rows(folder / "sums.jsonl", rows)
    return {
        "harm": [str(folder / "harm.jsonl")],
        "over_refusal": [str(folder / "benign.jsonl")],
        "reasoning": [{"path": str(folder / "sums.jsonl"), "template": "{prompt} Think."}],
        "sampling": {"max_new_tokens": 100},
    }


def adapter_folder(folder: Path, base: Path, scale: float = 0.0) -> Path:
    """A folder that looks like a trained adapter; only a scripted engine takes it."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    about = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 1}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    save_file({"weight": np.full(3, scale, dtype=np.float32)}, folder / "adapter_model.safetensors")
    return folder


def config(tmp_path: Path, model: Path, evaluation: dict[str, Any], **top: Any) -> DictDefault:
    """A final Axolotl config, as far as the evaluation reads it."""
    section = {"work_dir": str(tmp_path / "work"), "guard": {"model": "builtin"}, "eval": evaluation}
    section |= top.pop("safety", {})
    raw = {"base_model": str(model), "sequence_len": 512, "datasets": [], "safety": section} | top
    cfg = DictDefault(raw)
    prepare_config(cfg)
    return DictDefault(cfg.to_dict())


Answer = Callable[[bool, str, int], str]


def scripted(model: Path, answer: Answer, cut: Callable[[bool, str, int], bool] = lambda *_: False) -> Any:
    """A function that starts engines, and the list of those it started.

    Args:
        model: whose tokenizer is used.
        answer: tuned or not, the shown prompt and its number to a response.
        cut: whether that response ends without its end token.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    engines: list[tiny.ScriptedEngine] = []

    def start(_: Any, __: str, ___: Path, models: dict[str, Any]) -> tiny.ScriptedEngine:
        tuned = models["target"].adapter is not None

        def ids(request: Request) -> tuple[int, ...] | Failure:
            shown = tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False)
            number = int(re.search(r"(?:lamp|case) (\d+)", shown).group(1))
            text = answer(tuned, shown, number)
            if text == "fail":
                return Failure(request.request_id, "poisoned", "scripted")
            said = tuple(tokenizer.encode(text, add_special_tokens=False))
            return said if cut(tuned, shown, number) else (*said, tokenizer.eos_token_id)

        engines.append(tiny.ScriptedEngine(ids))
        return engines[-1]

    return start, engines


REFUSAL = "<think>\nThat would hurt someone.\n</think>\n\nI'm sorry, but I can't help with that."


def help_with(number: int, tail: str = "") -> str:
    """A kind answer."""
    return f"<think>\nThey want help, case {number}.\n</think>\n\nTake a soft cloth and rub it gently{tail}."


def sum_up(number: int) -> str:
    """A right answer to a sum."""
    return f"<think>\n{number} + 2 = {number + 2}.\n</think>\n\nThe answer is {number + 2}."
