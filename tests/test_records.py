"""A method, an engine and a guard family from outside the package: a line in a table, and a stage runs with them."""

import shutil
from pathlib import Path

import pytest
from outside import echo_engine
from support import tiny
from support.stage import config, manifest_of, rows_of, safechain_rows

from axolotl_safety.config import METHODS, SafetyConfig
from axolotl_safety.config.engine import BACKENDS
from axolotl_safety.config.guard import FAMILIES
from axolotl_safety.pipeline.stage import run_stage

OUTSIDE = Path(__file__).parent / "outside"


@pytest.fixture(autouse=True)
def lines(monkeypatch):
    """The three lines; everything else stands in tests/outside."""
    monkeypatch.setitem(METHODS, "shorter", "outside.echo_method:SHORTER")
    monkeypatch.setitem(BACKENDS, "echo", "outside.echo_engine:ECHO")
    monkeypatch.setitem(FAMILIES, "plain", "outside.plain_guard:FAMILY")


def outside_config(tmp_path, models, rows, method="shorter", guard="Some-Plain-Guard-1B", **more):
    folder = tmp_path / guard
    if not folder.exists():
        shutil.copytree(models("qwen3"), folder)
    block = {"engine": {"backend": "echo"}, "guard": {"model": str(folder), "family": "auto"}} | more
    return config(tmp_path, models("qwen3"), rows, method=method, top={"sequence_len": 1024}, **block)


def harmful_rows(count):
    return [row for row in safechain_rows(2 * count) if row["label"] == "vanilla_harmful"]


def test_a_stage_runs_with_all_three(tmp_path, models):
    output = run_stage(outside_config(tmp_path, models, harmful_rows(6)))[0]
    manifest, rows = manifest_of(output), rows_of(output)
    assert output["rows"] == 6 and manifest["method"] == "shorter" and manifest["engine"]["backend"] == "echo"
    for row in rows:
        assert row["status"] == "accepted" and row["verdict"] == "safe" and row["attempts"] == 2
        assert row["proposal"] == "shorter/bare@1" and row["answer"] == "I can't help with that."
    again = run_stage(outside_config(tmp_path, models, harmful_rows(6)), allow_engine=False)
    assert again[0]["hash"] == output["hash"]


def test_each_of_them_goes_with_the_packages_own(tmp_path, models, monkeypatch):
    rows = tiny.direct_refusal_rows(3)
    output = run_stage(outside_config(tmp_path, models, rows, method="dgr"))[0]
    assert output["rows"] == 3
    monkeypatch.setitem(echo_engine.SAYS, "guard0", "Safe: perhaps")
    unclear = outside_config(tmp_path / "unclear", models, harmful_rows(2))
    with pytest.raises(Exception, match="guard_unparsable"):
        run_stage(unclear)


@pytest.mark.parametrize(
    ("block", "hint"),
    [
        ({"engine": {"backend": "ecko"}}, "did you mean 'echo'"),
        ({"guard": {"model": "m", "family": "plane"}}, "did you mean 'plain'"),
    ],
)
def test_a_misspelt_name_is_met_with_the_tables_own(block, hint):
    with pytest.raises(ValueError, match=hint):
        SafetyConfig.model_validate(block)
