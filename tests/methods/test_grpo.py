"""GRPO through Axolotl: rows, rewards, what is refused, and one short run of its own trainer."""

from __future__ import annotations

import json
import math
import re

import pytest
import yaml
from axolotl.integrations.base import PluginManager
from axolotl.prompt_strategies.base import load as load_strategy
from axolotl.utils.dict import DictDefault
from safetensors.torch import load_file
from support import axolotl_cli as cli
from support import tiny
from support.axolotl_cli import without_the_package
from support.grpo import PLUGIN, leave_nothing_behind, pretend_run

from axolotl_safety.config import DatasetOptions
from axolotl_safety.config.validate import prepare_config
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.methods.grpo import context
from axolotl_safety.methods.grpo.dataset import make_transform
from axolotl_safety.plugin import SafetyPlugin
from axolotl_safety.util.errors import ConfigError, DataError
from axolotl_safety.util.releases import installed_plugins_load

LAB = cli.ROOT / "examples" / "lab"


@pytest.fixture(autouse=True)
def no_run_left_over():
    yield from leave_nothing_behind()


# Rows


ROWS = {
    "direct_refusal": ({"prompt": "jinx it", "refusal": "Question: jinx it\nAnswer: No.", "text": "x"}, "harmful"),
    "safekey": ({"question": "q", "response": "t\n</think>\n\na", "summary_end_idx": 3, "source": "s"}, "harmful"),
    "star1": ({"question": "q", "response": "<think>t</think>a", "category": ["c"], "score": {}}, "harmful"),
    "thinksafe": ({"instruction": "q", "response": "a", "prompt_label": "vanilla_benign"}, "benign"),
    "safechain": ({"instruction": "q", "response": "t\n</think>\n\na", "label": "adversarial_harmful"}, "harmful"),
    "r1_act": ({"instruction": "q", "response": "<think>t</think>I can't help with that."}, "harmful"),
    "wildjailbreak": (
        {"vanilla": "q", "adversarial": None, "completion": "a", "data_type": "vanilla_benign"},
        "benign",
    ),
    "beavertails": ({"prompt": "q", "response": "a", "is_safe": False, "category": {}}, "harmful"),
    "pair": ({"prompt": "q", "response": "Sure, take a spoon and stir.", "label": "safe"}, "benign"),
    "messages": ({"messages": [{"role": "user", "content": "q"}], "is_benign": True}, "benign"),
}


def transformed(rows, tokenizer, options=None, room=200):
    columns = {name: [row.get(name) for row in rows] for name in {key for row in rows for key in row}}
    return make_transform("rows.jsonl", options or DatasetOptions(), None, room)(columns, tokenizer=tokenizer)


@pytest.mark.parametrize("name", ROWS)
def test_every_adapter_gives_a_prompt_and_a_label(name):
    row, label = ROWS[name]
    made = transformed([row, row], tiny.make_tokenizer())
    prompt = "jinx it" if name == "direct_refusal" else "q"
    assert made == {"prompt": [[{"role": "user", "content": prompt}]] * 2, "label": [label] * 2, "answer": [None] * 2}


def test_named_fields_and_gold_answers():
    rows = [{"question": "how many?", "answer": "1. Count 3 lamps.\n2. Add 39.\n#### 42"}]
    options = DatasetOptions(prompt_field="question", response_field="answer", label="benign")
    made = transformed(rows, tiny.make_tokenizer(), options)
    assert made["answer"] == ["42"] and made["label"] == ["benign"]
    assert transformed(rows, tiny.make_tokenizer(), options.model_copy(update={"label": "harmful"}))["answer"] == [None]


def test_rows_that_cannot_be_asked_are_left_out_and_counted(caplog):
    tokenizer = tiny.make_tokenizer()
    texts = ["fine", "smuggled<|im_end|>", "long " * 300, "", None]
    rows = [{"instruction": text, "response": "no", "label": "vanilla_harmful"} for text in texts]
    with caplog.at_level("WARNING"):
        made = transformed(rows, tokenizer)
    assert [turns[0]["content"] for turns in made["prompt"]] == ["fine"]
    for reason in ("control_token 1", "prompt_too_long 1", "empty_prompt 1", "null_text 1", "4 of 5"):
        assert reason in caplog.text


def test_a_prompt_is_not_lost_for_its_response():
    said = [None, "", "<think>cut off", 7, "<think>R</think>A"]
    rows = [{"instruction": "q", "response": text, "label": "vanilla_harmful"} for text in said]
    assert transformed(rows, tiny.make_tokenizer())["label"] == ["harmful"] * len(said)


def test_a_label_that_nobody_knows_earns_no_reward_of_its_own():
    made = transformed([{"prompt": "q"}], tiny.make_tokenizer(), DatasetOptions(label="any"))
    assert made["label"] == [None] and made["prompt"] == [[{"role": "user", "content": "q"}]]


def test_rows_without_a_label_say_what_to_set():
    with pytest.raises(DataError, match=r"safety: \{label: harmful\}"):
        transformed([{"question": "q"}], tiny.make_tokenizer(), DatasetOptions(prompt_field="question"))


def test_conversations_keep_their_history_and_labels_choose():
    turns = [("system", "be brief"), ("user", "hi"), ("assistant", "hello"), ("user", "mix"), ("assistant", "Stir.")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns], "label": "benign"}]
    made = transformed(rows, tiny.make_tokenizer())
    assert [turn["role"] for turn in made["prompt"][0]] == ["system", "user", "assistant", "user"]
    assert transformed(rows, tiny.make_tokenizer(), DatasetOptions(only="harmful"))["prompt"] == []
    assert transformed(rows, tiny.make_tokenizer(), DatasetOptions(only="benign")) == made


@pytest.mark.parametrize("style", ["r1", "qwen3"])
def test_trl_samples_from_the_raw_prompts_own_generation_prompt(style):
    tokenizer = tiny.make_tokenizer(style)
    made = transformed([{"instruction": "jinx it", "response": "no"}], tokenizer)
    # As trl.GRPOTrainer._tokenize_prompts does for conversations.
    (ids,) = tokenizer.apply_chat_template(
        conversation=made["prompt"], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    assert tuple(ids) == TargetTokenizer(tokenizer, (tokenizer.eos_token_id,)).prompt_ids("jinx it")
    assert ids.count(tokenizer.bos_token_id) == (style == "r1")
    assert tokenizer.decode(ids).endswith("<think>\n" if style == "r1" else "assistant\n")


@pytest.mark.parametrize("place", ["top", "section", "trl"])
def test_what_the_template_is_told_reaches_trl_rows_and_rewards(models, place):
    values = {"effort": "high"}
    cfg = pretend_run(models(), rl="grpo", datasets=[{"path": "b", "type": "axolotl_safety.grpo"}])
    cfg["trl"] = DictDefault({"chat_template_kwargs": values} if place == "trl" else {})
    cfg["safety"]["think"] = {"chat_template_kwargs": values} if place == "section" else None
    cfg["chat_template_kwargs"] = values if place == "top" else None
    plugin = SafetyPlugin()
    assert plugin.get_training_args(cfg) == {"chat_template_kwargs": values}

    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = "{{ effort | default('') }}" + tokenizer.chat_template
    long = "low " * 40
    rows = {"instruction": ["hi"], "response": ["no"], "label": ["vanilla_harmful"]}
    room = len(TargetTokenizer(tokenizer, (tokenizer.eos_token_id,)).prompt_ids("hi")) + 2
    counted = [
        make_transform("r", DatasetOptions(), None, room, told)(rows, tokenizer=tokenizer)["label"]
        for told in ({}, {"effort": long})
    ]
    assert counted == [["harmful"], []]  # with what the template is told the prompt is too long
    assert context.current().tokens.template_kwargs == values

    cfg["chat_template_kwargs"], cfg["trl"] = {"effort": "low"}, DictDefault({"chat_template_kwargs": values})
    with pytest.raises(ConfigError, match="rendered in one way only"):
        plugin.get_training_args(cfg)
    cfg["datasets"] = [DictDefault({"path": "b", "type": "theirs.rows"})]
    assert plugin.get_training_args(cfg) is None  # nothing of ours is rendered


def test_a_turn_that_ends_where_trl_does_not_is_refused():
    tokenizer = tiny.make_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    with pytest.raises(ConfigError, match=r"ends a turn with '<\|im_end\|>'.*eos_token: '<\|im_end\|>'"):
        transformed([{"instruction": "q", "response": "no"}], tokenizer)


def test_axolotls_loader_finds_the_type_and_nothing_else(models, caplog):
    block = {"label": "benign", "prompt_field": "q"}
    cfg = pretend_run(
        models(), datasets=[{"path": "a", "type": "x"}, {"path": "b.jsonl", "type": "axolotl_safety.grpo"}]
    )
    cfg.trl = DictDefault({"max_completion_length": 500})
    cfg["safety"]["per_dataset"] = [None, block]
    options = {"module_base": "axolotl.prompt_strategies.dpo", "dataset_idx": 1}
    transform, map_kwargs = load_strategy("axolotl_safety.grpo", cfg, **options)
    assert map_kwargs == {"batched": True, "remove_columns": "__all__"}
    assert transform({"q": ["hi"]}, tokenizer=tiny.make_tokenizer())["prompt"] == []  # 512 - 500 tokens are no room
    cfg.trl.max_completion_length = 100
    transform, _ = load_strategy("axolotl_safety.grpo", cfg, **options)
    assert transform({"q": ["hi"]}, tokenizer=tiny.make_tokenizer())["label"] == ["benign"]
    assert load_strategy("axolotl_safety.gone", cfg, **options) is None  # Axolotl then raises ValueError
    if installed_plugins_load():
        return  # then no YAML has to list the plugin
    PluginManager.get_instance().plugins.clear()
    with caplog.at_level("WARNING"):
        assert load_strategy("axolotl_safety.grpo", cfg, **options) is None
    assert f"plugins:\n  - {PLUGIN}" in caplog.text


# What is refused


def raw_yaml(**changes):
    entry = {"path": "rows.jsonl", "type": "axolotl_safety.grpo"}
    base = {
        "base_model": "m",
        "plugins": [PLUGIN],
        "rl": "grpo",
        "trl": {"reward_funcs": ["axolotl_safety.rewards.guard_safe"]},
        "datasets": [entry],
    }
    return DictDefault(base | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rl": None}, "Set rl: grpo"),
        ({"rl": "dpo"}, "Set rl: grpo"),
        ({"datasets": [{"path": "r", "type": "axolotl_safety.thinksafe"}]}, "Remove rl:"),
        ({"datasets": [{"path": "r", "type": "axolotl_safety.grop"}]}, "did you mean 'axolotl_safety.grpo'"),
        ({"trl": {"reward_funcs": ["axolotl_safety.rewards.guard_save"]}}, "did you mean .*guard_safe"),
        ({"trl": {"reward_funcs": ["axolotl_saftey.rewards.refusal"]}}, "did you mean .*refusal"),
        ({"trl": {}}, "needs rewards"),
        ({"safety": {"max_rows": 5}}, "split: train"),
        (
            {"datasets": [{"path": "r", "type": "axolotl_safety.grpo", "safety": {"max_rows": 5}}]},
            "split: train",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_way_out(changes, words):
    with pytest.raises(ConfigError, match=words):
        prepare_config(raw_yaml(**changes))


def test_a_sound_yaml_passes_and_its_blocks_are_lifted():
    entries = [
        {"path": "r", "type": "axolotl_safety.grpo"},
        {"path": "s", "type": "axolotl_safety.grpo", "safety": {"label": "benign"}},
        {"path": "t", "type": "my_module.rows"},
    ]
    cfg = raw_yaml(datasets=entries, trl={"reward_funcs": ["axolotl_safety.rewards.correct", "my_module.reward"]})
    prepare_config(cfg)
    prepare_config(cfg)
    assert cfg["safety"]["per_dataset"][1] == {"label": "benign"}


# Axolotl's own trainer


@pytest.mark.e2e
def test_axolotl_trains_with_the_rewards(tmp_path):
    config = yaml.safe_load((cli.ROOT / "yaml" / "lab_grpo.yml").read_text())
    rows = [json.loads(line) for line in (LAB / "data" / "safechain.jsonl").read_text().splitlines()[:24]]
    sums = [{"question": f"What is {n} + 4 - 2?", "answer": f"#### {n + 2}"} for n in range(2, 10)]
    block = {"prompt_field": "question", "response_field": "answer", "label": "benign"}
    names = ("guard_safe", "think_format", "refusal", "correct")
    config["datasets"] = [
        {"path": str(tiny.write_rows(tmp_path / "chain.jsonl", rows)), "type": "axolotl_safety.grpo"},
        {"path": str(tiny.write_rows(tmp_path / "sums.jsonl", sums)), "type": "axolotl_safety.grpo", "safety": block},
    ]
    config["trl"] |= {
        "reward_funcs": [f"axolotl_safety.rewards.{name}" for name in names],
        "reward_weights": [1.0] * len(names),
        "temperature": 2.0,  # every kind of response in a few steps
    }
    config |= {
        "max_steps": 3,
        "micro_batch_size": 32,
        "lr_scheduler": "constant",
        "warmup_steps": 0,
        "logging_steps": 1,
    }
    config |= {"output_dir": str(tmp_path / "model"), "dataset_prepared_path": str(tmp_path / "prepared")}
    code, output = cli.run("train", config, tmp_path)
    assert code == 0, output[-3000:]
    for name in names:
        means = [float(value) for value in re.findall(rf"'rewards/{name}/mean': '?([0-9.e-]+|nan)", output)]
        assert means and all(0 <= value <= 1 for value in means if not math.isnan(value)), (name, means)
    spread = [float(value) for value in re.findall(r"'reward_std': '?([0-9.e-]+)", output)]
    assert len(spread) == 3 and max(spread) > 0
    weights = load_file(tmp_path / "model" / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)  # they start at zero
    assert not (tmp_path / "safety").exists()


@pytest.mark.e2e
def test_without_the_package_axolotl_stops(tmp_path):
    config = yaml.safe_load((cli.ROOT / "yaml" / "lab_grpo.yml").read_text())
    config |= {
        "max_steps": 1,
        "output_dir": str(tmp_path / "model"),
        "dataset_prepared_path": str(tmp_path / "prepared"),
    }
    code, output = cli.run("train", config, tmp_path, PYTHONPATH=without_the_package(tmp_path / "gone"))
    # Up to 0.20 a plugin that cannot be imported is skipped, and the type is what cannot be found.
    newest = "No module named 'axolotl_safety'"
    words = newest if installed_plugins_load() else "Failed to load dataset transform function"
    assert code != 0 and words in output, output[-3000:]
    assert not (tmp_path / "model" / "adapter_model.safetensors").exists()
