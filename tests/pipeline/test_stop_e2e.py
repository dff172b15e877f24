"""`axolotl train` with ``safety.stop`` on the laboratory's model: packed rows, a real pass, a resumed run."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from support import axolotl_cli as cli

pytestmark = pytest.mark.e2e


def recipe(tmp_path):
    """Foreign refusals as they are, at a rate at which a few steps of packed rows teach refusing (everything)."""
    config = yaml.safe_load((cli.ROOT / "yaml" / "lab_vanilla.yml").read_text())
    config["safety"] = {
        "work_dir": str(tmp_path / "safety"),
        "stop": {"refusal": 90, "over_refusal": 100, "every": 3, "prompts": 16, "max_new_tokens": 100},
    }
    places = {"output_dir": str(tmp_path / "model"), "dataset_prepared_path": str(tmp_path / "prepared")}
    packed = {"sample_packing": True, "pad_to_sequence_len": True, "micro_batch_size": 2}
    steps = {"max_steps": 30, "warmup_steps": 0, "learning_rate": 3e-3, "lr_scheduler": "constant"}
    saved = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 20}
    return config | places | packed | steps | saved


def told(tmp_path):
    (path,) = (tmp_path / "safety" / "stop").glob("training-latest-*.json")
    assert path.read_bytes() == (path.parent / "training-latest.json").read_bytes()
    return json.loads(path.read_text())


def test_packed_training_ends_where_it_is_enough_and_a_resumed_run_goes_on_with_its_history(tmp_path):
    config = recipe(tmp_path)
    code, output = cli.run("train", config, tmp_path)
    assert code == 0, output[-3000:]
    first, model = told(tmp_path), tmp_path / "model"
    assert first["passed"] and first["judgements"][0]["step"] == 3 and first["judgements"][0]["refused"] <= 4
    assert first["step"] == first["judgements"][-1]["step"] < 30 and first["judgements"][-1]["refused"] >= 15
    said = f"safety.stop: enough at step {first['step']} of 30: "
    assert said in output and re.search(r"judging took [\d.]+ s, [\d.]+ % of the [\d.]+ s of training", output)
    weights = (model / "adapter_model.safetensors").read_bytes()
    checkpoint = model / f"checkpoint-{first['step']}"
    assert (checkpoint / "adapter_model.safetensors").read_bytes() == weights  # the checkpoint that passed

    page = (tmp_path / "safety" / "report.html").read_text()
    assert f"<p>{first['why']}.</p>" in page and 'href="#training"' in page
    assert page.count('data-name="harmful refused"') == len(first["judgements"])

    before = first["judgements"][-2]["step"]
    again = config | {"resume_from_checkpoint": str(model / f"checkpoint-{before}"), "output_dir": f"{tmp_path}/again"}
    code, output = cli.run("train", again, tmp_path / "second")
    assert code == 0, output[-3000:]
    second, count = told(tmp_path), len(first["judgements"]) - 1
    assert f"going on from step {before} with {count} judgements made before" in output
    assert second["judgements"][:count] == first["judgements"][:count] and second["passed"]
    assert [one["step"] for one in second["judgements"]] == [one["step"] for one in first["judgements"]]
    assert (tmp_path / "again" / "adapter_model.safetensors").stat().st_size == len(weights)
