"""Every YAML in yaml/ passes Axolotl's own validation with our section in it; the lab's run as they stand."""

from __future__ import annotations

from pathlib import Path

import axolotl_cli as cli
import pytest
import yaml
from axolotl.cli.config import prepare_plugins
from axolotl.integrations.base import PluginManager
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault

from axolotl_safety.stage import our_entries, section

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
    assert our_entries(validated) and section(validated).work_dir.startswith("/")
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
    code, output = cli.run("train", config, tmp_path)
    assert code == 0, output[-3000:]
    (manifest,) = cli.manifests(tmp_path / "safety")
    assert manifest["funnel"]["accepted"] >= 30 and not manifest["guards"][0]["heuristic"]
    assert manifest["nll"]["after"] < 0.6
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()
