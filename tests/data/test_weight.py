"""Axolotl's `weight` of a dataset: a share of its rows, drawn before anything is generated."""

from __future__ import annotations

import pytest
from support import tiny
from support.stage import config, manifest_of, scripted

from axolotl_safety.commands.report.page import write_report
from axolotl_safety.data.sources import Source
from axolotl_safety.pipeline.stage import run_stage


def source(count: int) -> Source:
    ids = [f"row{number}" for number in range(count)]
    return Source("a", [{"prompt": one} for one in ids], ids, frozenset({"prompt"}), "sha")


@pytest.mark.parametrize(("weight", "count"), [(None, 40), (1.0, 40), (0.5, 20), (0.99, 39), (0.001, 1)])
def test_a_share_of_the_rows_in_their_order(weight, count):
    part = source(40).weighted(weight, seed=3)
    assert len(part.rows) == len(part.row_ids) == count
    places = [int(row_id.removeprefix("row")) for row_id in part.row_ids]
    assert places == sorted(places) and [row["prompt"] for row in part.rows] == part.row_ids
    assert part.whole == (None if count == 40 else 40)


def test_a_larger_weight_keeps_the_rows_of_a_smaller_one():
    small, large = (set(source(40).weighted(weight, seed=3).row_ids) for weight in (0.2, 0.7))
    assert small < large
    assert small != set(source(40).weighted(0.2, seed=4).row_ids)


def test_nothing_is_made_of_the_other_rows_and_it_is_said(tmp_path, models):
    start, engine = scripted(models("qwen3"), "qwen3")
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(20), entry={"weight": 0.25})
    (output,) = run_stage(cfg, make_engine=start).values()
    manifest = manifest_of(output)
    assert manifest["source"]["rows"] == manifest["funnel"]["taken"] == 5
    assert manifest["source"]["before_weight"] == 20
    assert "rows before weight" in write_report(tmp_path / "work").read_text()
