"""Axolotl's own commands on real YAMLs: preprocess, train, evaluate, two ranks, and every way to leave us out."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest
from datasets import load_from_disk
from support import axolotl_cli as cli
from support import tiny
from support.axolotl_cli import without_the_package
from transformers import AutoTokenizer

from axolotl_safety.util.releases import installed_plugins_load

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return tiny.write_rows(tmp_path_factory.mktemp("rows") / "direct.jsonl", tiny.direct_refusal_rows(24))


# Which hooks Axolotl calls, in this order and so often; `evaluate` calls no load_datasets.
BEGIN = ["register", "get_input_args"]
BUILD = ["get_training_args", "get_trainer_cls", *["get_collator_cls_and_kwargs"] * 2, "add_callbacks_post_trainer"]
if installed_plugins_load():  # from Axolotl 0.21 on the trainer's class is asked for first
    BUILD[:2] = BUILD[1::-1]
HOOKS = {
    "preprocess": [*BEGIN, "load_datasets"],
    "train": [*BEGIN, "load_datasets", *BUILD, "post_trainer_create", "post_train_unload"],
    "evaluate": [*BEGIN, *BUILD],
}
ONLY_FROM_0_21 = {"post_lora_merge"}  # test_releases_e2e.py


def implemented_hooks() -> set[str]:
    """The methods of our plugin class, read without importing Axolotl."""
    tree = ast.parse((cli.ROOT / "axolotl_safety" / "plugin.py").read_text())
    (plugin,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.name for node in plugin.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}


# Put together here, so that no scanner takes them for real ones.
SECRETS = {"HF_TOKEN": "hf" + "_" + "QwErTy" * 5, "JUDGE_KEY": "sk" + "-" + "a1B2c3" * 6}


def traced(folder: Path, command: str) -> dict[str, str]:
    """What lets the `hook_trace` plugin be found and write; and keys that the command must keep to itself."""
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, "HOOK_TRACE": str(folder / f"{command}.hooks")} | SECRETS


def no_secret_was_kept(work_dir: Path, *outputs: str) -> None:
    """In no file that the stage wrote with a real engine, and on no terminal; and the files are their owner's alone."""
    files = [path for path in work_dir.rglob("*") if path.is_file()]
    assert any(path.parent.name == "logs" and path.stat().st_size for path in files)
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path
        assert path.suffix not in (".pkl", ".pt", ".pth", ".bin"), path
    told = [path.read_bytes() for path in files] + [output.encode() for output in outputs]
    assert not any(secret.encode() in text for secret in SECRETS.values() for text in told)


def test_every_hook_that_we_implement_is_one_that_axolotl_calls():
    assert implemented_hooks() - ONLY_FROM_0_21 == {name for names in HOOKS.values() for name in names}


def test_preprocess_then_train_then_evaluate(tmp_path, models, rows):
    config = cli.training_yaml(models("qwen3"), rows, tmp_path, val_set_size=0.25, eval_steps=10)
    config["plugins"].insert(0, "hook_trace.Tracer")
    code, output = cli.run("preprocess", config, tmp_path, **traced(tmp_path, "preprocess"))
    assert code == 0, output[-3000:]
    (first,) = cli.manifests(tmp_path / "safety")
    assert first["counts"]["engine_starts"] == 1 and first["counts"]["generated"] == 24
    assert not cli.processes_of(tmp_path / "safety")
    report = (tmp_path / "safety" / "report.html").read_bytes()
    assert f"report: {tmp_path}/safety/report.html" in output and b"peak memory" in report

    # Without --launcher python: exactly what a user types.
    process = cli.start("train", config, tmp_path, **traced(tmp_path, "train"))
    trained, _ = process.communicate(timeout=500)
    assert process.returncode == 0, trained[-3000:]
    no_secret_was_kept(tmp_path / "safety", output, trained)
    (second,) = cli.manifests(tmp_path / "safety")
    assert second["hash"] == first["hash"]
    assert (tmp_path / "safety" / "report.html").read_bytes() == report
    assert second["counts"] == first["counts"] | {"engine_starts": 0, "generated": 0, "reused": 24} | {
        "verdicts_made": 0,
        "scores_made": 0,
    }
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()

    code, output = cli.run("evaluate", config, tmp_path, **traced(tmp_path, "evaluate"))
    assert code == 0, output[-3000:]
    assert {name: (tmp_path / f"{name}.hooks").read_text().split() for name in HOOKS} == HOOKS
    assert not re.search(r"engine: process \d+", output)


def test_evaluate_before_the_stage_says_what_to_run(tmp_path, models, rows):
    config = cli.training_yaml(models("qwen3"), rows, tmp_path, val_set_size=0.25)
    code, output = cli.run("evaluate", config, tmp_path)
    assert code != 0 and "axolotl preprocess" in output


def test_axolotl_trains_on_exactly_our_ids_beside_ordinary_rows(tmp_path, models, rows):
    chat = [
        {"messages": [{"role": "user", "content": f"sort {index}"}, {"role": "assistant", "content": "done"}]}
        for index in range(6)
    ]
    config = cli.training_yaml(models("qwen3"), rows, tmp_path, sample_packing=True, pad_to_sequence_len=True)
    chat_path = tiny.write_rows(tmp_path / "chat.jsonl", chat)
    config["datasets"].append({"path": str(chat_path), "type": "chat_template"})
    code, output = cli.run("train", config, tmp_path)
    assert code == 0, output[-3000:]
    (manifest,) = cli.manifests(tmp_path / "safety")
    ours = load_from_disk(str(tmp_path / "safety" / "datasets" / manifest["hash"] / "train"))
    (prepared,) = [path for path in (tmp_path / "prepared").iterdir() if path.is_dir()]
    seen = {(tuple(row["input_ids"]), tuple(row["labels"])) for row in load_from_disk(str(prepared))}
    wanted = {(tuple(row["input_ids"]), tuple(row["labels"])) for row in ours}
    assert wanted < seen and len(seen - wanted) == len(chat)
    assert manifest["funnel"]["trained"] == len(ours)


def test_two_ranks_start_one_engine_and_see_one_hash(tmp_path, models, rows):
    config = cli.training_yaml(models("qwen3"), rows, tmp_path)
    # Two CPU ranks get no further than the end of the data stage (transformers needs an accelerator then).
    environ = cli.without_driver(tmp_path / "patched")
    _, output = cli.run("train", config, tmp_path, "--launcher", "torchrun", "--", "--nproc_per_node", "2", **environ)
    (manifest,) = cli.manifests(tmp_path / "safety")
    assert manifest["counts"]["engine_starts"] == 1 and manifest["counts"]["generated"] == 24
    (status,) = (tmp_path / "safety" / "ranks").iterdir()
    assert json.loads(status.read_text())["result"]["0"]["hash"] == manifest["hash"]
    loaded = re.findall(r"Loading dataset: (\S+/datasets/\S+/train) ", output)
    assert loaded and set(loaded) == {str(tmp_path / "safety" / "datasets" / manifest["hash"] / "train")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("package", "No module named 'axolotl_safety'"),
        ("plugin", "plugins:\n  - axolotl_safety.SafetyPlugin"),
        ("section", "did you mean 'safety'"),
        ("key", "did you mean 'retries'"),
    ],
)
def test_leaving_us_out_never_trains_silently(tmp_path, models, rows, change, words):
    config = cli.training_yaml(models("qwen3"), rows, tmp_path)
    environ = {}
    if change == "package":
        environ["PYTHONPATH"] = without_the_package(tmp_path / "gone")
    elif change == "plugin":
        if installed_plugins_load():
            pytest.skip("this Axolotl needs no such line")
        del config["plugins"]
    elif change == "section":
        config["saftey"] = config.pop("safety")
    else:
        config["safety"]["dgr"]["retrys"] = 1
    code, output = cli.run("train", config, tmp_path, **environ)
    assert code != 0 and words in output, output[-3000:]
    assert not (tmp_path / "model" / "adapter_model.safetensors").exists()


def test_the_saved_tokenizer_renders_what_was_trained(tmp_path, models, rows):
    told = {"chat_template": "exaone4", "chat_template_kwargs": {"enable_thinking": True}}
    config = cli.training_yaml(models("qwen3"), rows, tmp_path, max_steps=1, eot_tokens=["<|endoftext|>"], **told)
    config["datasets"][0]["type"] = "axolotl_safety.vanilla"
    code, output = cli.run("train", config, tmp_path)
    assert code == 0, output[-3000:]
    assert "chat_template exaone4 of the YAML renders other prompts" in output
    saved = AutoTokenizer.from_pretrained(tmp_path / "model")
    (manifest,) = cli.manifests(tmp_path / "safety")
    trained = load_from_disk(str(tmp_path / "safety" / "datasets" / manifest["hash"] / "train"))
    assert len(trained) == 24
    texts = {saved.decode(row["input_ids"]) for row in trained}
    for row in tiny.direct_refusal_rows(24):
        turns = [{"role": "user", "content": row["prompt"]}]
        asked = saved.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=True)
        assert asked.endswith("<think>\n") and sum(text.startswith(asked) for text in texts) == 1
