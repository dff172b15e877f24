"""``axolotl safety-plan`` on the recipes that name a card: the figures in their comments are the plan's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml
from axolotl.integrations.base import PluginManager
from click.testing import CliRunner
from support import axolotl_cli as cli
from support import tiny
from support.shapes import published
from support.stage import safechain_rows

from axolotl_safety.commands.plan.cli import main
from axolotl_safety.util.releases import installed_plugins_load

RECIPES = sorted(path for path in (cli.ROOT / "yaml").glob("*.yml") if re.search(r"_\d+gb$", path.stem))
LAB = cli.ROOT / "examples" / "lab"
# Rows of the real size, with toy prompts: what counts is how many there are, and how long the completions are.
ROWS = {
    "TianshengHuang/DirectRefusal": lambda: tiny.direct_refusal_rows(1000),
    "UWNSL/SafeChain": lambda: safechain_rows(4000),
    "my/refusals.jsonl": lambda: [
        {"instruction": row["prompt"], "response": row["refusal"]} for row in tiny.direct_refusal_rows(1000)
    ],
    "my/benign.jsonl": lambda: [{"prompt": f"How do I polish the lamp number {number}?"} for number in range(1000)],
}


@pytest.fixture(autouse=True)
def no_plugins_left_over():
    PluginManager.get_instance().plugins.clear()
    yield
    PluginManager.get_instance().plugins.clear()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub cache with published configurations and toy tokenizers, without any weights."""
    root = tmp_path_factory.mktemp("hub")

    def put(name: str) -> None:
        source = root / "source" / name
        source.mkdir(parents=True)
        if "Guard" in name:
            for path in (LAB / "guard").iterdir():
                if path.suffix != ".safetensors":
                    shutil.copy(path, source)
        else:
            tiny.make_tokenizer("qwen3" if name.startswith("Qwen/") else "r1").save_pretrained(source)
        published(name).save_pretrained(source)
        cli.hub_cache(root, name, source)

    for path in RECIPES:
        for name in (yaml.safe_load(path.read_text())["base_model"], "Qwen/Qwen3Guard-Gen-0.6B"):
            if not (root / "source" / name).exists():
                put(name)
    return root


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {name: tiny.write_rows(folder / f"{name.replace('/', '--')}.jsonl", make()) for name, make in ROWS.items()}


@pytest.fixture
def plan(tmp_path, hub, rows, monkeypatch):
    """Plan a recipe with changes; exit code, JSON and output."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub / "hub"))

    def run(path: Path, *options: str, **changes):
        config = yaml.safe_load(path.read_text())
        for entry in config["datasets"]:
            entry["path"] = str(rows[entry["path"]])
        engine = changes.pop("engine", {})
        config["safety"] |= {"work_dir": str(tmp_path / "safety")} | changes.pop("safety", {})
        config["safety"]["engine"] |= engine
        config |= changes
        changed = tmp_path / "config.yml"
        changed.write_text(yaml.safe_dump(config))
        result = CliRunner().invoke(main, [str(changed), "--json", "-", *options])
        last = result.stdout.strip().splitlines()[-1:] or [""]
        return result.exit_code, json.loads(last[0]) if last[0].startswith("{") else {}, result.output

    return run


def card_of(path: Path) -> str:
    return re.search(r"--gpu (\S+?)`", path.read_text()).group(1)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipes_comment_holds_the_plans_figures(plan, path):
    code, found, output = plan(path, "--gpu", card_of(path))
    assert code == 0 and found["can_run"] is True, output[-3000:]
    comment = "".join(f"#   {line}\n" for line in found["summary"])
    assert len(found["summary"]) == 3 and comment in path.read_text(), f"the comment should hold\n{comment}"
    gigabytes = int(re.search(r"_(\d+)gb$", path.stem).group(1))
    assert found["place"]["cards"][0]["memory_bytes"] == pytest.approx(gigabytes * 2**30, rel=0.001)
    assert 0 < found["hours"] < 12 and not any("may not fit" in one for one in found["findings"]["warnings"])


def test_the_tutorials_recipe_for_24_gb_fits(plan, tmp_path):
    text = (cli.ROOT / "docs" / "tutorial.md").read_text().partition("### For a card of 24 GB")[2]
    recipe = tmp_path / "mine.yml"
    recipe.write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1))
    assert yaml.safe_load(recipe.read_text())["base_model"].endswith("Distill-Qwen-7B")
    code, found, output = plan(recipe, "--gpu", "rtx4090")
    assert code == 0 and found["can_run"] is True and 0 < found["hours"] < 12, output[-3000:]
    assert found["engine"]["fits"] and not any("may not fit" in one for one in found["findings"]["warnings"]), output


def test_a_card_that_is_too_small_ends_with_the_reasons(plan):
    path = next(path for path in RECIPES if "8b_24gb" in path.stem)
    code, found, output = plan(path, "--gpu", "rtx3060", engine={"quantization": None})
    assert code == 1 and found["can_run"] is False and found["seconds"] is None
    (generation,) = [one for one in found["findings"]["problems"] if one.startswith("generation")]
    assert "weights take 16.4 GB" in generation  # alone: the engine would load the guard in turn
    assert "bitsandbytes" in generation and "enforce_eager" in generation
    assert "verdict: this cannot run on 1 x rtx3060" in output
    code, found, _ = plan(path, "--gpu", "rtx3060", "--gpus", "4", engine={"quantization": None})
    # On two of them together the model fits beside 1 GB of keys and values; one copy on all four has room.
    assert found["engine"]["parallel"] == 4 and found["engine"]["fits"]


def test_hours_above_the_limit_are_a_reason(plan):
    path = next(path for path in RECIPES if "8b_24gb" in path.stem)
    code, found, output = plan(path, "--gpu", card_of(path), safety={"max_hours": 0.01})
    assert code == 1 and "safety.max_hours is 0.01" in output


def test_what_cannot_be_read_is_said_in_one_line(plan, tmp_path):
    code, _, output = plan(RECIPES[0], "--gpu", "rtx9999")
    assert code == 1 and "did you mean" in output and "Traceback" not in output
    code, _, output = plan(RECIPES[0], "--gpu", "rtx4090", "--try", "2")
    assert code == 1 and "cannot be combined with --gpu" in output
    code, _, output = plan(RECIPES[0], "--gpu", "rtx4090", lora_r="many")
    assert code == 1 and "lora_r" in output and "Traceback" not in output
    plain = tmp_path / "plain.yml"
    plain.write_text("base_model: x\n")
    result = CliRunner().invoke(main, [str(plain)])
    assert result.exit_code == 1 and ("`safety:`" if installed_plugins_load() else "plugins:") in result.output
