"""A work folder of an earlier version is read: nothing is made again, and the dataset has the same hash.

The journals beside this file were written by commit 7c1850e, before the stage was one coroutine per row, on ten rows of
each dataset of two of the laboratory's recipes.
"""

import shutil
from pathlib import Path

import pytest
import yaml
from axolotl.utils.dict import DictDefault

from axolotl_safety.config.validate import prepare_config
from axolotl_safety.pipeline.stage import run_stage

ROOT = Path(__file__).parents[2]
JOURNALS = Path(__file__).parent / "earlier_journals"
HASHES = {
    "lab_dgr": ["79578b4a28923ac35139f30c", "9d522bb6627fdc4c18dea9c7"],
    "lab_thinksafe": ["c83d79a43f545d4c3483e091"],
}


@pytest.mark.parametrize("recipe", HASHES)
def test_an_earlier_journal_answers_everything(tmp_path, monkeypatch, recipe):
    monkeypatch.chdir(ROOT)
    shutil.copytree(JOURNALS / recipe, tmp_path / "work" / "journal")
    raw = yaml.safe_load((ROOT / "yaml" / f"{recipe}.yml").read_text())
    raw["safety"] |= {"work_dir": str(tmp_path / "work"), "max_rows": 10}
    cfg = DictDefault({key: raw[key] for key in ("base_model", "sequence_len", "datasets", "safety", "seed")})
    prepare_config(cfg)
    outputs = run_stage(DictDefault(cfg.to_dict()), allow_engine=False)
    assert [outputs[index]["hash"] for index in sorted(outputs)] == HASHES[recipe]
