"""Which rows are taken: drawn, likeliest or most unlike; held-out categories; and what is measured of their shift."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest
from support import tiny
from support.stage import config, manifest_of, rows_of, scripted, scripted_by_prompt, thinksafe_answer

from axolotl_safety.config.section import section
from axolotl_safety.data import entries
from axolotl_safety.data.labels import row_categories
from axolotl_safety.data.sources import select_rows
from axolotl_safety.data.types import Outcome
from axolotl_safety.pipeline.inputs import stage_inputs
from axolotl_safety.pipeline.manifest import read_runs
from axolotl_safety.pipeline.selection import diverse_order
from axolotl_safety.pipeline.shift import describe, shift_lines, shift_of
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util import progress
from axolotl_safety.util.errors import ConfigError, DataError

KINDS = ("toys", "weather", "gardens")


def filed_rows(count: int, kinds=KINDS):
    """Rows with a category; the later ones all ask nearly the same."""
    return [
        {
            "prompt": f"How do I jinx the {'lamp' if index > 9 else f'thing{index} near place{index}'} {index % 5}?",
            "response": f"<think>\nNo, {'very ' * (index % 7)}bad.\n</think>\n\nI'm sorry, I can't help with that.",
            "label": "harmful",
            "category": kinds[index % len(kinds)],
        }
        for index in range(count)
    ]


def test_lowest_nll_takes_the_rows_whose_reference_is_likeliest(tmp_path, models):
    model = models("qwen3")
    start, engines = scripted(model, "qwen3")
    rows = filed_rows(40)
    everything = rows_of(run_stage(config(tmp_path / "all", model, rows), make_engine=start)[0])
    cfg = config(tmp_path / "ten", model, rows, select="lowest_nll", max_rows=10)
    start, engines = scripted(model, "qwen3")
    output = run_stage(cfg, make_engine=start)[0]
    taken = {row["row_id"]: row["nll_reference"] for row in rows_of(output)}
    nll = {row["row_id"]: row["nll_reference"] for row in everything}
    assert len(taken) == 10 < len(nll) and max(taken.values()) <= sorted(nll.values())[9]
    assert len(engines) == 1 and len(read_runs(tmp_path / "ten" / "work")) == 1
    assert run_stage(cfg, allow_engine=False)[0] == output
    vanilla = config(tmp_path / "vanilla", model, rows, method="vanilla", select="lowest_nll", max_rows=10)
    start, engines = scripted(model, "qwen3")
    assert {row["row_id"] for row in rows_of(run_stage(vanilla, make_engine=start)[0])} == set(taken)
    assert len(engines) == 1  # for the scores alone


def test_diverse_spreads_over_prompts_and_categories_and_a_larger_count_keeps_the_smaller(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    taken = {}
    for count in (6, 12):
        cfg = config(tmp_path, models("qwen3"), filed_rows(60), select="diverse", max_rows=count)
        taken[count] = rows_of(run_stage(cfg, make_engine=start)[0])
    ids = {count: {row["row_id"] for row in rows} for count, rows in taken.items()}
    assert len(ids[12]) == 12 and ids[6] < ids[12]
    for count, rows in taken.items():
        assert [sum(row["categories"] == [kind] for row in rows) for kind in KINDS] == [count // 3] * 3
    assert sum("near place" in row["prompt"] for row in taken[12]) >= 9  # 10 of 60 rows are unlike the others


def test_diverse_order_is_farthest_first_and_knows_scripts_without_spaces():
    prompts = ["red lamp", "red lamp", "blue kettle", "red kettle", "如何擦灯", "如何擦壶"]
    order = diverse_order(prompts, [""] * 6, 6)
    assert order[0] == 0 and set(order[:3]) == {0, 2, 4} and order[-1] == 1
    assert order == [*diverse_order(prompts, [""] * 6, 3), *order[3:]]
    assert diverse_order(prompts, ["a", "a", "a", "a", "b", "b"], 4)[1] in (4, 5)
    assert diverse_order(["same"] * 3, [""] * 3, 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("safety", "message"),
    [
        ({"method": "thinksafe", "select": "lowest_nll", "max_rows": 5}, "select: random"),
        ({"select": "diverse"}, "no max_rows says how many"),
        ({"entry": {"safety": {"select": "lowest_nll"}}}, "no max_rows says how many"),
    ],
)
def test_a_rule_that_cannot_choose_is_refused_with_the_way_out(tmp_path, models, safety, message):
    with pytest.raises(ConfigError, match=message):
        run_stage(config(tmp_path, models("qwen3"), filed_rows(20), **safety), allow_engine=False)


def test_held_out_categories_are_counted_and_never_asked_for(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    cfg = config(tmp_path, models("qwen3"), filed_rows(30), entry={"safety": {"hold_out": ["weather"], "max_rows": 10}})
    output = run_stage(cfg, make_engine=start)[0]
    manifest, rows = manifest_of(output), rows_of(output)
    assert manifest["reasons"]["held_out"] == 10 and manifest["funnel"]["taken"] == 20
    assert {kind for row in rows if row["reason"] != "held_out" for kind in row["categories"]} == {"toys", "gardens"}
    assert not [row for row in rows if row["reason"] == "held_out" and (row["attempts"] or row["response_token_ids"])]
    weather = manifest["categories"]["weather"]
    assert weather == {"taken": 10, "accepted": 0, "fallback": 0, "rejected": 10}
    misspelt = config(tmp_path, models("qwen3"), filed_rows(30), entry={"safety": {"hold_out": ["wether"]}})
    with pytest.raises(DataError, match="'wether', and no row has this category.*'toys'"):
        run_stage(misspelt, make_engine=start)


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        ({"category": " Toys "}, None, ("Toys",)),
        ({"category": ["Toys", "", 3, "Glue"]}, None, ("Toys", "Glue")),
        ({"category": {"toys": True, "glue": False, "ink": 1}}, None, ("toys",)),
        ({"category": None, "type": "Toys"}, None, ("Toys",)),
        ({"category": "Toys", "kind": "Ink"}, "kind", ("Ink",)),
        ({"category": 7}, None, ()),
        ({}, None, ()),
    ],
)
def test_categories_are_read_as_the_public_sets_spell_them(row, column, expected):
    assert row_categories(row, column) == expected


def test_describe_is_numpy_and_says_when_there_is_nothing():
    values = [0.5, None, 1.5, 4.0, 2.0]
    known = np.array([0.5, 1.5, 4.0, 2.0])
    found = describe(values)
    assert found["n"] == 4 and found["mean"] == known.mean() and found["sd"] == known.std(ddof=1)
    assert [found[f"p{q}"] for q in (5, 50, 95)] == [*np.percentile(known, [5, 50, 95])]
    assert describe([None])["mean"] is None and describe([1.0])["sd"] is None


def test_shift_is_grouped_by_label_method_rung_and_refine_round():
    def row(label, stage, proposal, before, after, status="accepted"):
        scores = {"nll_reference": before, "nll_accepted": after}
        return Outcome("r", 0, "s", "p", label, status, stage=stage, proposal=proposal, **scores)

    rows = [
        row("harmful", "transform", "dgr/rewrite@1", 2.0, 1.0),
        row("harmful", "refine1", "dgr/rewrite@1", 4.0, 0.5),
        row("benign", "original", "dgr/rewrite@1", 3.0, 3.0, "fallback"),
        row("benign", "thinksafe/abc", "thinksafe/none@1", None, 0.25),
    ]
    found = shift_of(rows)
    assert found["all"]["fall"]["n"] == 3 and found["all"]["fall"]["mean"] == pytest.approx((1 + 3.5 + 0) / 3)
    assert found["label"]["harmful"]["accepted"]["mean"] == 0.75 and found["label"]["benign"]["accepted"]["n"] == 2
    assert {name: group["accepted"]["n"] for name, group in found["method"].items()} == {
        **{"dgr": 2, "original": 1, "thinksafe": 1}
    }
    assert set(found["rung"]) == {"dgr/rewrite@1", "original", "thinksafe/none@1"}
    assert {name: group["accepted"]["mean"] for name, group in found["refine_round"].items()} == {"0": 1.0, "2": 0.5}
    lines = "\n".join(shift_lines(found))
    assert "label harmful" in lines and "3.000 [2.100, 3.900] before, 0.750 [0.525, 0.975] after (n 2)" in lines


def test_the_manifest_tells_the_shift_and_the_engine_run_is_kept(tmp_path, models):
    asked = [f"How do I jinx the lamp {number}?" for number in range(30)]
    rows = [{"instruction": text, "label": "vanilla_harmful", "response": "x</think>y"} for text in asked]
    cfg = config(tmp_path, models("qwen3"), rows, method="thinksafe", thinksafe={"ladder": ["none", "refuse"]})
    output = run_stage(cfg, make_engine=scripted_by_prompt(models("qwen3"), thinksafe_answer))[0]
    shift, kept = manifest_of(output)["shift"], [row for row in rows_of(output) if row["status"] == "accepted"]
    assert set(shift["rung"]) == {row["proposal"] for row in kept} == {"thinksafe/none@1", "thinksafe/refuse@1"}
    for name, group in shift["rung"].items():
        own = [row["nll_accepted"] for row in kept if row["proposal"] == name]
        assert group["accepted"]["n"] == len(own) and group["accepted"]["mean"] == pytest.approx(np.mean(own))
    assert shift["all"]["reference"]["n"] == 0
    (run,) = read_runs(tmp_path / "work")
    assert run["made"]["completion"] == manifest_of(output)["counts"]["generated"] and run["starts"] == 1
    run_stage(cfg, allow_engine=False)
    assert read_runs(tmp_path / "work") == [run]


def test_thoughts_are_measured_in_tokens_of_the_response(tmp_path, models):
    for markers in ("added", "text"):
        start, _ = scripted(models("qwen3", markers), "qwen3")
        cfg = config(tmp_path / markers, models("qwen3", markers), tiny.direct_refusal_rows(12))
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(models("qwen3", markers))
        kept = [row for row in rows_of(run_stage(cfg, make_engine=start)[0]) if row["status"] == "accepted"]
        assert kept
        for row in kept:
            head = tokenizer.decode(row["response_token_ids"][: row["thought_tokens"]])
            shorter = tokenizer.decode(row["response_token_ids"][: row["thought_tokens"] - 1])
            assert "</think>" in head and "</think>" not in shorter


def large_rows(count: int):
    """Rows of a few kinds: harmful with a refusal, harmful with an answer, benign, and such that cannot be used."""
    said = ("I'm sorry, but I can't help with that, {n}.", "Take wand {n}.", "Take cloth {n}.", None)
    return [
        {
            "prompt": f"How do I {'polish' if n % 4 == 2 else 'jinx'} lamp {n}?",
            "response": text and f"<think>\nHm.\n</think>\n\n{text.format(n=n)}",
            "label": "benign" if n % 4 == 2 else "harmful",
        }
        for n in range(count)
        for text in [said[n % 4]]
    ]


@pytest.fixture
def calls(monkeypatch):
    """How many rows were adapted, made tasks of, and looked through for a refusal."""
    counted: Counter[str] = Counter()
    for name in ("read_example", "make_task", "is_refusal"):
        own = getattr(entries, name)

        def counting(*args, own=own, name=name, **kwargs):
            counted[name] += 1
            return own(*args, **kwargs)

        monkeypatch.setattr(entries, name, counting)
    return counted


@pytest.mark.parametrize("only", [None, "benign"])
@pytest.mark.parametrize("method", ["dgr", "thinksafe"])
def test_preparing_costs_what_is_taken_and_takes_what_it_took(tmp_path, models, calls, method, only):
    rows, entry = large_rows(2000), {"safety": {"only": only, "max_rows": 5}}
    cfg = config(tmp_path, models("qwen3"), rows, method=method, entry=entry)
    (few,) = stage_inputs(cfg, section(cfg)).entries
    looked = calls["read_example"]
    assert len(few.tasks) == 5 and 5 <= looked <= 60 and calls["make_task"] <= looked
    assert calls["is_refusal"] == (0 if method == "thinksafe" or only else sum(t.label == "harmful" for t in few.tasks))
    everything = config(tmp_path, models("qwen3"), rows, method=method, entry={"safety": {"only": only}})
    (whole,) = stage_inputs(everything, section(everything)).entries
    assert calls["read_example"] - looked == 2000
    ids = [task.example.row_id for task in whole.tasks]
    assert {task.example.row_id for task in few.tasks} == select_rows(ids, 5, 42)
    assert [task.example.row_id for task in few.tasks] == [one for one in ids if one in select_rows(ids, 5, 42)]
    assert {row.row_id for row in few.bad} <= {row.row_id for row in whole.bad}
    assert few.tasks == tuple(task for task in whole.tasks if task.example.row_id in select_rows(ids, 5, 42))


def test_a_source_without_enough_usable_rows_is_looked_at_as_a_whole(tmp_path, models, calls):
    cfg = config(tmp_path, models("qwen3"), large_rows(40), max_rows=35)
    (entry,) = stage_inputs(cfg, section(cfg)).entries
    assert (len(entry.tasks), len(entry.bad), calls["read_example"]) == (30, 10, 40)


def test_long_work_without_a_terminal_says_a_line_now_and_then(monkeypatch, caplog):
    caplog.set_level("INFO", "axolotl_safety")
    monkeypatch.setattr(progress, "LINE_SECONDS", -1.0)
    with progress.ProgressLine("toys: rows prepared", 3, logging.getLogger("axolotl_safety.data")) as line:
        for _ in range(3):
            line.done()
    assert "toys: rows prepared: 1 of 3 done, about 0 s left" in caplog.text
    assert "toys: rows prepared: 3 of 3 done" in caplog.text
