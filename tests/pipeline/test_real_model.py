"""A real language model, SmolLM2-135M-Instruct, through stage and training; skipped where it is not at hand.

What it writes is of no interest: it is too small to think. That ids, prompts and ends of turns are right on a
published checkpoint, in the precision and with the shared keys of its kind, is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk
from safetensors.torch import load_file
from support import axolotl_cli as cli
from transformers import AutoTokenizer

MODEL = Path(os.environ.get("AXOLOTL_SAFETY_REAL_MODELS", "")) / "smollm2-135m-instruct"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not MODEL.joinpath("config.json").is_file(), reason="no AXOLOTL_SAFETY_REAL_MODELS/smollm2-..."),
]
THINGS = ("lamp", "kettle", "shell", "marsh", "bell", "broom", "hat", "pond")
REAL = {
    "engine": {"backend": "transformers", "dtype": "bfloat16"},
    "think": {"open": "<think>", "close": "</think>"},  # neither template nor vocabulary knows the closing one
}
REFUSAL = "<think>\nJinxing a {thing} could hurt its owner, so I will not help.\n</think>\n\nI can't help with that."


@pytest.fixture
def thinker(tmp_path) -> Path:
    """The checkpoint with a template that opens the thought; the weights are linked."""
    folder = tmp_path / "thinker"
    folder.mkdir()
    for file in MODEL.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8").rstrip()
    (folder / "chat_template.jinja").unlink()
    opens = "{%- if add_generation_prompt %}{{- '<think>\\n' }}{%- endif %}"
    (folder / "chat_template.jinja").write_text(template + opens, encoding="utf-8")
    return folder


def test_eight_rows_and_a_step(thinker, tmp_path):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    lines = [
        {"prompt": f"How do I jinx the {thing}?", "response": REFUSAL.format(thing=thing), "label": "harmful"}
        for thing in THINGS
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = cli.training_yaml(thinker, rows, out, max_steps=1, micro_batch_size=8)
    config["safety"] |= REAL
    config["safety"]["sampling"] = {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 48}
    config["datasets"][0]["safety"] = {"label": "harmful"}
    code, output = cli.run("train", config, tmp_path)
    assert code == 0, output[-3000:]

    (manifest,) = cli.manifests(out / "safety")
    funnel = manifest["funnel"]
    assert funnel["source"] == funnel["asked"] == funnel["finished"] == funnel["trained"] == 8
    assert funnel["accepted"] + funnel["fallback"] == 8 and manifest["counts"]["engine_starts"] == 1

    tokenizer = AutoTokenizer.from_pretrained(thinker)
    (folder,) = [path for path in (out / "safety" / "datasets").iterdir() if path.is_dir()]
    staged = pq.read_table(folder / "rows.parquet").to_pylist()
    trained = load_from_disk(str(folder / "train"))
    assert {row["prompt"] for row in staged} == {line["prompt"] for line in lines}
    for row, ids in zip(staged, trained, strict=True):
        turns = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        assert row["prompt_token_ids"] == prompt == ids["input_ids"][: len(prompt)]
        assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n")
        assert ids["labels"][: len(prompt)] == [-100] * len(prompt)
        assert ids["input_ids"][-1] == ids["labels"][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
        if row["status"] == "fallback":
            assert row["thinking"].startswith("Jinxing a ") and row["nll_reference"] > 0

    adapter = load_file(out / "model" / "adapter_model.safetensors")
    moved = [name for name, tensor in adapter.items() if "lora_B" in name and tensor.abs().sum() > 0]
    assert len(moved) == 30 * 7, "every linear of every layer took the step"
