"""Every YAML in yaml/ passes Axolotl's own validation with our section in it; the lab's run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from axolotl.cli.config import prepare_plugins
from axolotl.integrations.base import PluginManager
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault
from support import axolotl_cli as cli
from support import tiny

from axolotl_safety.config.grpo_conflicts import GRPO_TYPE
from axolotl_safety.config.section import our_entries, section

YAMLS = sorted((cli.ROOT / "yaml").glob("*.yml"))


@pytest.fixture(autouse=True)
def no_plugins_left_over():
    PluginManager.get_instance().plugins.clear()
    yield
    PluginManager.get_instance().plugins.clear()


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_axolotl_accepts_it_and_every_key_is_known(path: Path):
    raw = yaml.safe_load(path.read_text())
    cfg = DictDefault(raw)
    prepare_plugins(cfg)
    capabilities = {"bf16": True, "n_gpu": 1, "compute_capability": "sm_89"}
    validated = validate_config(cfg, capabilities=capabilities, env_capabilities={"torch_version": "2.13.0"})
    if validated.rl:  # no data stage
        assert {entry.type for entry in validated.datasets} == {GRPO_TYPE}
    else:
        assert our_entries(validated)
    assert section(validated).work_dir.startswith("/")
    lost = {key for key in raw if key not in validated}
    assert not lost, f"Axolotl does not know {lost}"


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["lab_dgr_qlora", "lab_thinksafe"])
def test_lab_recipes_run(tmp_path, name):
    config = yaml.safe_load((cli.ROOT / "yaml" / f"{name}.yml").read_text())
    config |= {
        "max_steps": 2,
        "output_dir": str(tmp_path / "model"),
        "dataset_prepared_path": str(tmp_path / "prepared"),
    }
    config["safety"] |= {"work_dir": str(tmp_path / "safety"), "max_rows": 40}
    evaluation = config["safety"].get("eval")
    if evaluation:
        evaluation |= {"max_items": 6, "after_train": True}
    code, output = cli.run("train", config, tmp_path)
    assert code == 0, output[-3000:]
    if evaluation:
        (line,) = [line for line in output.splitlines() if line.startswith('{"results"')]
        check_evaluation(json.loads(line))
    found = cli.manifests(tmp_path / "safety")
    assert len(found) == len(config["datasets"])
    for manifest in found:
        assert manifest["funnel"]["accepted"] >= 30 and not manifest["guards"][0]["heuristic"]
        assert manifest["nll"]["after"] < 0.6
    assert {label for manifest in found for label in manifest["labels"]} == {"harmful", "benign"}
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()


def check_evaluation(said: dict[str, Any]) -> None:
    """The line of JSON that an evaluation after training ends with: base and adapter on every set."""
    results = json.loads(Path(said["results"]).read_text())
    assert [one["kind"] for one in results["models"]] == ["base", "adapter"] and Path(said["items"]).is_file()
    assert {(one["set"], one["n"]) for one in results["sets"]} == {(n, 6) for n in ("seen", "unseen", "benign", "sums")}
    assert all(one["overlap"] is not None for one in results["sets"])
    base = {one["set"]: one["value"] for one in said["figures"] if one["metric"] in ("correct", "harmful")}
    assert base["sums"] > 80 and said["safety_tax"][0]["n"] == 6 and results["figures"] == said["figures"]


LAB = cli.ROOT / "examples" / "lab"
# Recipes that name a card differ from the others in sizes alone, which the plan checks.
REAL = [path.stem for path in YAMLS if not re.search(r"^lab_|_\d+gb$", path.stem)]
REFUSALS_ALONE = ("vanilla_directrefusal", "vanilla_r1act", "vanilla_star1")
TRAINED_ALIKE = ("vanilla_directrefusal", "vanilla_r1act", "vanilla_safechain")  # as vanilla_star1, which is trained


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory):
    """Tiny models with a family's template that refuse when they are steered and answer otherwise; taught once."""
    made: dict[str, Path] = {}

    def get(style: str) -> Path:
        if style not in made:
            made[style] = tiny.make_talker(tmp_path_factory.mktemp("talkers") / style, style)
        return made[style]

    return get


def toy_rows(dataset: str) -> list[dict[str, Any]]:
    """Harmless rows in the real dataset's columns."""

    def read(name: str, count: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (LAB / "data" / f"{name}.jsonl").read_text().splitlines()[:count]]

    if dataset == "TianshengHuang/DirectRefusal":
        return read("direct_refusal", 12)
    if dataset == "UWNSL/SafeChain":
        return read("safechain", 24)
    if dataset == "openai/gsm8k":
        return [{"question": f"What is {n} + 2?", "answer": f"{n} + 2 = {n + 2}\n#### {n + 2}"} for n in range(12)]
    assert dataset in ("Yeonjun/R1-Act-train", "UCSC-VLAA/STAR-1"), f"no toy rows like {dataset}"
    rows = read("r1_act", 12)
    if dataset == "Yeonjun/R1-Act-train":
        return rows
    extra = {"category": ["Toys"], "source": "toy", "score": {"a": 10, "b": 10, "c": 10}}
    renamed = [{"question": row["instruction"], "response": row["response"]} for row in rows]
    return [{"id": str(number)} | row | extra for number, row in enumerate(renamed)]


@pytest.mark.e2e
@pytest.mark.parametrize("name", REAL)
def test_a_real_recipe_runs_on_a_tiny_model(tmp_path, talkers, name):
    """Nothing is changed but models, data paths, the backend and the CPU keys; the guard keeps its hub id.

    GRPO's 500 steps are cut to one.
    """
    config = yaml.safe_load((cli.ROOT / "yaml" / f"{name}.yml").read_text())
    style = "qwen3" if "Qwen/Qwen3" in config["base_model"] else "r1"
    for index, entry in enumerate(config["datasets"]):
        entry["path"] = str(tiny.write_rows(tmp_path / f"rows{index}.jsonl", toy_rows(entry["path"])))
        entry.pop("name", None)  # of a hub dataset
    guard = config["safety"].get("guard", {}).get("model", "Qwen/Qwen3Guard-Gen-0.6B")
    assert "/" in guard and not Path(guard).exists()
    config |= cli.CPU_KEYS | {"base_model": str(talkers(style)), "output_dir": str(tmp_path / "model")}
    config |= {"dataset_prepared_path": str(tmp_path / "prepared")}
    config["safety"] |= {"work_dir": str(tmp_path / "safety"), "engine": {"backend": "transformers"}}
    if config.get("rl"):
        config["max_steps"] = 1
    cache = cli.hub_cache(tmp_path / "hf", guard, LAB / "guard")
    command = "preprocess" if name in TRAINED_ALIKE else "train"
    code, output = cli.run(command, config, tmp_path, HF_HOME=str(cache))
    assert code == 0, output[-3000:]
    assert (tmp_path / "model" / "adapter_model.safetensors").exists() is (command == "train")
    if config.get("rl"):
        rewards = dict(re.findall(r"'rewards/(?:\S*\.)?(\w+)/mean': '?([-\d.e]+)", output))
        assert set(rewards) >= {"guard_safe", "think_format", "refusal", "correct"}, output[-3000:]
        assert float(rewards["think_format"]) > 0.5 and float(rewards["guard_safe"]) > 0.1
        return
    found = cli.manifests(tmp_path / "safety")
    assert len(found) == len(config["datasets"])
    for manifest in found:
        generated = manifest["method"] != "vanilla"
        assert manifest["funnel"]["trained"] > 0 and manifest["funnel"]["taken"] >= 6
        assert manifest["guards"] == ([{"name": guard, "heuristic": False}] if generated else [])
    labels = {label for manifest in found for label in manifest["labels"]}
    assert labels == ({"harmful"} if name in REFUSALS_ALONE else {"harmful", "benign"})
