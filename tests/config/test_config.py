"""The YAML section: strict keys with a hint, near-misses of its own name, blocks lifted, nothing changed twice."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import yaml
from axolotl.utils.dict import DictDefault

from axolotl_safety.config import SafetyConfig
from axolotl_safety.config.section import our_entries, section
from axolotl_safety.config.validate import prepare_config
from axolotl_safety.engines.choose import choose_backend
from axolotl_safety.util.errors import ConfigError


def raw(**top):
    entry = {"path": "x.jsonl", "type": "axolotl_safety.dgr"}
    return DictDefault({"base_model": "m", "datasets": [entry]} | top)


def test_every_key_is_optional():
    cfg = raw()
    prepare_config(cfg)
    assert section(cfg).choice == "first" and section(cfg).guard[0].model == "Qwen/Qwen3Guard-Gen-0.6B"
    assert section(raw(safety=None)).seed == 42


@pytest.mark.parametrize(
    ("safety", "words"),
    [
        ({"choise": "first"}, "safety: unknown key 'choise': did you mean 'choice'"),
        ({"dgr": {"retrys": 1}}, "safety.dgr: unknown key 'retrys': did you mean 'retries'"),
        ({"dgr": {"sampling": {"temp": 1}}}, "safety.dgr.sampling: unknown key 'temp': did you mean 'temperature'"),
        ({"engine": {"backend": "vlm"}}, "safety.engine.backend.*got 'vlm'"),
        ({"dgr": {"prompt": "rewritten"}}, "no prompt is named 'rewritten'"),
        ({"dgr": {"prompt": "say {prompt}"}}, "foreign response"),
        ({"guard": []}, "empty list of guards"),
        ({"guard": None}, "safety.guard.0: must be a mapping of keys.*got None"),
        ({"engine": "vllm"}, "safety.engine: must be a mapping of keys.*got 'vllm'"),
        ({"guard": {"segment": "half"}}, "safety.guard.0.segment"),
        ({"sampling": {"top_p": 0}}, "safety.sampling.top_p"),
        ("yes please", "must be a mapping"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(safety, words):
    with pytest.raises(ConfigError, match=words):
        prepare_config(raw(safety=safety))


def test_a_guard_may_be_its_name_alone_in_a_list_too():
    named = SafetyConfig(guard=["builtin", {"model": "some/guard"}, "an/other"])
    assert [one.model for one in named.guard] == ["builtin", "some/guard", "an/other"]
    assert SafetyConfig(guard="some/guard") == SafetyConfig(guard={"model": "some/guard"})


@pytest.mark.parametrize(
    ("datasets", "seen"),
    [
        ("rows.jsonl", "'rows.jsonl'"),
        ({"path": "rows.jsonl", "type": "axolotl_safety.dgr"}, "'path': 'rows.jsonl'"),
        (["rows.jsonl"], "'rows.jsonl'"),
        ([{"path": "rows.jsonl", "type": "axolotl_safety.dgr"}, None], "None"),
        (5, "5"),
    ],
)
def test_datasets_of_another_form_are_refused(datasets, seen):
    with pytest.raises(ConfigError, match="must be a list of mappings") as said:
        prepare_config(DictDefault({"base_model": "m", "datasets": datasets, "safety": {}}))
    assert seen in str(said.value)


@pytest.mark.parametrize("name", ["safty", "saftey", "Safety", "safe_ty", "safety_", "axolotl_safety", "axolotl_safty"])
def test_a_misspelt_section_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name!r}: did you mean 'safety'"):
        prepare_config(raw(**{name: {"seed": 1}}))


def test_a_mapping_under_a_foreign_name_is_anothers_whatever_it_holds(tmp_path):
    text = """
x-common: &common
  guard: {model: builtin}
  dgr: {n: 2}
serving: {engine: vllm, choice: first, seed: 3}
save_safetensors: true
safety: {<<: *common, seed: 5}
datasets: [{path: a.jsonl, type: axolotl_safety.dgr}]
"""
    cfg = DictDefault(yaml.safe_load(text))
    prepare_config(cfg)
    assert (section(cfg).dgr.n, section(cfg).seed, section(cfg).guard[0].model) == (2, 5, "builtin")


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("pretraining_dataset", [{"path": "books.jsonl"}]),
        ("pretraining_dataset", "books.jsonl"),
        ("streaming", True),
        ("reward_model", True),
        ("process_reward_model", True),
    ],
)
def test_modes_that_leave_our_rows_out_are_refused_where_there_are_any(mode, value):
    with pytest.raises(ConfigError, match=f"{mode}: .*'x.jsonl' of type axolotl_safety.dgr, whose rows would not"):
        prepare_config(raw(**{mode: value}))
    others = raw(**{mode: value})
    others.datasets = [DictDefault({"path": "x.jsonl", "type": "alpaca"})]
    prepare_config(others)
    prepare_config(raw(**{mode: None}))


def test_blocks_are_lifted_once_and_survive_a_second_registration():
    cfg = raw(safety={"work_dir": "here"})
    cfg.datasets.append(DictDefault({"path": "y", "type": "chat_template"}))
    cfg.datasets[0]["safety"] = {"label": "harmful", "max_rows": 3}
    prepare_config(cfg)
    once = cfg.to_dict()
    assert "safety" not in cfg.datasets[0]
    assert section(cfg).per_dataset[0].max_rows == 3 and section(cfg).per_dataset[1] is None
    assert section(cfg).work_dir.startswith("/") and section(cfg).work_dir.endswith("/here")
    prepare_config(cfg)
    assert cfg.to_dict() == once


def test_blocks_on_other_types_and_unknown_types_of_ours_are_refused():
    cfg = raw()
    cfg.datasets[0] = DictDefault({"path": "y", "type": "chat_template", "safety": {"label": "harmful"}})
    with pytest.raises(ConfigError, match="chat_template"):
        prepare_config(cfg)
    cfg = raw()
    cfg.datasets[0]["type"] = "axolotl_safety.drg"
    with pytest.raises(ConfigError, match=r"axolotl_safety\.dgr, axolotl_safety\.thinksafe"):
        our_entries(cfg)


def test_an_adapter_below_the_base_model_is_refused():
    cfg = raw(lora_model_dir="./adapter")
    prepare_config(cfg)  # inference, evaluate and merge-lora name it too, and must not be stopped
    from axolotl_safety.plugin import SafetyPlugin

    with pytest.raises(ConfigError, match="merge-lora"):
        SafetyPlugin().load_datasets(cfg)


def test_backends_that_cannot_run_are_refused_before_anything_starts():
    with pytest.raises(ConfigError, match="/no/such/python"):
        choose_backend(SafetyConfig(engine={"python": "/no/such/python"}).engine)
    with pytest.raises(ConfigError, match="vllm"):
        choose_backend(SafetyConfig(engine={"backend": "vllm"}).engine)
    assert choose_backend(SafetyConfig().engine) == "transformers"
    assert choose_backend(SafetyConfig(engine={"backend": "transformers", "python": sys.executable}).engine)


def test_the_evaluation_cache_key_follows_section_and_output(tmp_path):
    def stamp(**safety):
        cfg = raw(safety={"work_dir": str(tmp_path)} | safety)
        prepare_config(cfg)
        return cfg.datasets[0]["field_model"]

    first = stamp()
    assert first == stamp() != stamp(seed=3)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "latest.json").write_text('{"0": "abc"}')
    assert stamp() != first


def test_importing_the_package_is_light():
    code = "import sys, axolotl_safety; assert not {'torch', 'pydantic', 'axolotl', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    bare, ours = [], []
    for _ in range(3):
        for times, module in ((bare, "json"), (ours, "axolotl_safety")):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
            times.append(time.perf_counter() - started)
    assert min(ours) - min(bare) < 0.150


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"saftey": {"max_rows": 3}}, "unknown key 'saftey': did you mean 'safety'"),
        ({"max_rows": 3}, "safety: {max_rows: 3}"),
        ({"type": "axolotl_saftey.dgr"}, "did you mean 'axolotl_safety.dgr'"),
    ],
)
def test_what_axolotl_would_drop_from_an_entry_is_refused(change, words):
    cfg = raw()
    cfg.datasets[0] |= change
    with pytest.raises(ConfigError, match=words):
        prepare_config(cfg)


def test_our_types_elsewhere_are_refused_before_any_engine():
    with pytest.raises(ConfigError, match="test_datasets"):
        prepare_config(raw(test_datasets=[{"path": "x", "type": "axolotl_safety.dgr"}]))
    with pytest.raises(ConfigError, match=r"\{prompt\}"):
        prepare_config(raw(safety={"dgr": {"prompt": "say {promt} after {reference}"}}))
