"""Which YAMLs ask for the plugin, and what differs between the releases of Axolotl."""

from __future__ import annotations

import subprocess
import sys

import pytest
from axolotl.utils.dict import DictDefault

from axolotl_safety.plugin import SafetyPlugin
from axolotl_safety.util import releases
from axolotl_safety.util.releases import PLUGIN, names_us, vllm_beside

ORDINARY = {
    "base_model": "somewhere/model",
    "datasets": [
        {"path": "rows.jsonl", "type": "chat_template"},
        {"path": "b.jsonl", "type": {"field_output": "a"}},
    ],
    "test_datasets": None,
    "plugins": ["axolotl.integrations.liger.LigerPlugin"],
    "trl": {"beta": 0.1, "reward_funcs": ["mine.score"]},
}


@pytest.mark.parametrize(
    "change",
    [
        {"plugins": [PLUGIN]},
        {"safety": {}},
        {"safety": {"max_rows": 3}},
        {"datasets": [{"path": "rows.jsonl", "type": "axolotl_safety.dgr"}]},
        {"test_datasets": [{"path": "rows.jsonl", "type": "axolotl_safety.vanilla"}]},
        {"pretraining_dataset": [{"path": "rows.jsonl", "type": "axolotl_safety.dgr"}]},
        {"datasets": [{"path": "rows.jsonl", "type": "axolotl_safety.grpo"}]},
        {"trl": {"reward_funcs": ["axolotl_safety.rewards.safety"]}},
    ],
)
def test_a_yaml_that_names_us_is_ours(change):
    assert not names_us(DictDefault(ORDINARY))
    assert names_us(DictDefault(ORDINARY | change))


@pytest.mark.parametrize(
    "odd",
    [{}, {"datasets": None}, {"datasets": "rows"}, {"datasets": ["rows", None]}, {"trl": None}],
)
def test_odd_yamls_are_left_to_axolotl(odd):
    assert not names_us(DictDefault(ORDINARY | {"plugins": None} | odd))


def test_every_hook_leaves_another_yaml_as_it_is(caplog):
    cfg = DictDefault(ORDINARY | {"axolotl_config_path": "x.yml"})
    before = cfg.to_dict()
    plugin = SafetyPlugin()
    with caplog.at_level(0):
        plugin.register(cfg)
        assert plugin.get_input_args() is None
        assert plugin.load_datasets(cfg) is None
        assert plugin.get_trainer_cls(cfg) is None
        assert plugin.get_collator_cls_and_kwargs(cfg) is None
        plugin.post_trainer_create(cfg, object())
        plugin.post_lora_merge(cfg, "a", "b")
        plugin.post_train_unload(cfg)
    assert cfg.to_dict() == before and not caplog.records


def test_the_section_comes_and_goes_with_the_yaml():
    plugin = SafetyPlugin()
    plugin.register(DictDefault(ORDINARY | {"safety": {"seed": 1}}))
    assert plugin.get_input_args() == "axolotl_safety.config.SafetyArgs"
    plugin.register(DictDefault(ORDINARY))
    assert plugin.get_input_args() is None


def test_another_yaml_imports_nothing_of_ours_but_the_plugin():
    code = (
        "import sys; import axolotl.integrations.base; from axolotl.utils.dict import DictDefault\n"
        "from axolotl_safety import SafetyPlugin\n"
        "plugin = SafetyPlugin(); cfg = DictDefault({'datasets': [{'path': 'a', 'type': 'alpaca'}]})\n"
        "plugin.register(cfg); plugin.load_datasets(cfg); plugin.get_trainer_cls(cfg); plugin.post_train_unload(cfg)\n"
        "print(sorted(name for name in sys.modules if name.startswith('axolotl_safety')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = ["", ".plugin", ".util", ".util.releases", ".util.version"]
    assert done.stdout.strip().splitlines()[-1] == str([f"axolotl_safety{name}" for name in own])


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.19.0", "Axolotl 0.19 can share an environment with vllm>=0.20,<0.24"),
        ("0.20.1", "No vLLM is known to fit into one environment with Axolotl 0.20"),
        ("0.21.0.post1", "Axolotl 0.21 can share an environment with vllm==0.30.0"),
        ("0.22.0", "No vLLM is known to fit into one environment with Axolotl 0.22"),
    ],
)
def test_which_vllm_fits_beside_axolotl(monkeypatch, version, said):
    monkeypatch.setattr(releases, "installed", lambda names: {"axolotl": version})
    assert vllm_beside() == said


def test_a_crashed_training_is_not_evaluated(monkeypatch):
    evaluated = []
    monkeypatch.setattr(
        "axolotl_safety.commands.evaluate.after_training.evaluate_after_training", lambda cfg: evaluated.append(cfg)
    )
    cfg = DictDefault(ORDINARY | {"safety": {"eval": {"after_train": True}}})
    with pytest.raises(RuntimeError, match="out of memory"):
        try:
            raise RuntimeError("out of memory")
        finally:
            SafetyPlugin().post_train_unload(cfg)
    assert not evaluated
    SafetyPlugin().post_train_unload(cfg)
    assert evaluated == [cfg]
