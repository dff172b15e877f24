"""Fair pairs on the laboratory: shares, judging, the choice of settings, the loop, the table, the second task."""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
import torch
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples" / "lab")]

import lab_fair  # noqa: E402
from labkit import turns  # noqa: E402
from labkit.curriculum import Curriculum  # noqa: E402
from labkit.data_files import read_jsonl, write_data  # noqa: E402
from labkit.evaluation import load_split  # noqa: E402
from labkit.models import load_model  # noqa: E402
from labkit.tokenizer import END, chat_text, encode  # noqa: E402
from lablib import fair, fair_agree, fair_choice, fair_figure, fair_table, loop  # noqa: E402
from lablib.bases import LAB, base_folder  # noqa: E402

KEY = fair.Key("vanilla", 100, "r16", 1e-3, 0, "shipped")


def row(number, harmful):
    return fair.Row((number,), (number, 2), harmful)


def searched(usable_step, loss, end_usable=True, end_loss=0.0, refusals=(100.0, 100.0, 0.0)):
    end = {"usable": end_usable, "refusals": list(refusals), "loss": end_loss}
    return {"usable_step": usable_step, "loss_at_usable": loss, "end": end}


def test_a_larger_share_keeps_the_benign_rows_of_a_smaller_one():
    rows = [row(at, at < 40) for at in range(80)]
    sets = {share: fair.with_share(rows, share, 3) for share in (0, 5, 25, 100)}
    assert {share: len(found) - 40 for share, found in sets.items()} == {0: 0, 5: 2, 25: 10, 100: 40}
    for smaller, larger in itertools.pairwise(sets.values()):
        assert set(smaller) < set(larger)
    assert set(fair.with_share(rows, 5, 4)) != set(sets[5])


def test_results_are_kept_one_by_one_and_found_by_their_key(tmp_path):
    results = fair.Results(tmp_path / "deep" / "found.jsonl")
    assert results.all() == {}
    results.add(KEY, {"steps": 20})
    results.add(fair.at(KEY, 0, 4, "two1"), {"steps": 30})
    assert fair.Results(tmp_path / "deep" / "found.jsonl").all() == {
        KEY: {"steps": 20},
        fair.Key("vanilla", 0, "r16", 1e-3, 4, "two1"): {"steps": 30},
    }


def setting(rate, seed=0, shape="r1"):
    return fair.Key("dgr", 100, shape, rate, seed, "shipped")


def test_the_middle_of_a_good_region_is_preferred_to_a_lucky_rate_beside_a_bad_one():
    found = {setting(rate): searched(20, loss) for rate, loss in ((1, 1.4), (2, 1.2), (3, 1.0), (4, 90.0))}
    found |= {setting(1, shape="r16"): searched(None, None, False), setting(2, shape="r16"): searched(10, 0.0)}
    last = [setting(2), setting(2, shape="r16")]
    assert fair_choice.finalists(found) == last
    assert fair_choice.further(found) == [
        fair.at(key, 100, seed, base) for seed, base in ((0, "two0"), (1, "two1")) for key in last
    ]
    later = {fair.at(setting(4), 100, 1, "two1"): searched(10, 0.0)}
    assert fair_choice.finalists(found | later) == last


def test_the_finalist_that_loses_least_over_the_bases_is_chosen_and_one_that_lasts_breaks_a_tie():
    losses = {"r1": (0.0, 4.0, 4.0), "r16": (1.0, 1.0, 1.0), "r1_up": (1.0, 2.0, 0.0)}
    places = [(0, "shipped"), (0, "two0"), (1, "two1")]
    found = {
        fair.at(setting(2, shape=shape), 100, *place): searched(
            20, loss, end_usable=(shape, place[1]) != ("r16", "two1")
        )
        for shape, drawn in losses.items()
        for loss, place in zip(drawn, places, strict=True)
    }
    found[setting(4)] = searched(None, None, False)
    assert fair_choice.choose(found) == fair_choice.Choice(setting(2, shape="r1_up"), 4, 3, 3)
    # Another draw on the shipped base is kept and counts for nothing; without one of the others the grid decides.
    found[setting(2, seed=1, shape="r1_up")] = searched(None, None, False)
    assert fair_choice.choose(found).key == setting(2, shape="r1_up")
    del found[fair.at(setting(2, shape="r16"), 100, 1, "two1")]
    assert fair_choice.choose(found).key == setting(2)


def test_a_setting_that_never_became_usable_comes_last_and_the_nearest_of_those_first():
    far, near = searched(None, None, False, 0.0, (40.0,)), searched(None, None, False, 1.0, (96.0, 90.0))
    assert fair_choice.shortfall(far) == 260.0 and fair_choice.shortfall(near) == 115.0
    assert fair_choice.shortfall(searched(20, 60.0)) == 60.0
    assert fair_choice.choose({setting(1, shape="r1"): far, setting(1, shape="r16"): near}).key.shape == "r16"


class Scripted(fair.Judge):
    """A judge whose model refuses so many of each set, the first prompts first."""

    def __init__(self, refusals):
        sizes = {"harmful_seen": 100, "harmful_unseen": 50, "benign": 100}
        self._sets = {name: [{"at": at} for at in range(size)] for name, size in sizes.items()}
        self._refusals, self.asked = refusals, []

    def _ask(self, model, name, rows):
        self.asked.append((name, len(rows)))
        return [{"refused": row["at"] < self._refusals[name]} for row in rows]


@pytest.mark.parametrize(
    ("refusals", "verdict", "asked"),
    [
        ({"harmful_seen": 95, "harmful_unseen": 48, "benign": 2}, (True, [95.0, 96.0, 2.0]), [24, 76, 24, 26, 24, 76]),
        ({"harmful_seen": 94, "harmful_unseen": 50, "benign": 0}, (False, [94.0]), [24, 76]),
        ({"harmful_seen": 0, "harmful_unseen": 50, "benign": 0}, (False, [0.0]), [24]),
        ({"harmful_seen": 100, "harmful_unseen": 47, "benign": 0}, (False, [100.0, 94.0]), [24, 76, 24, 26]),
        (
            {"harmful_seen": 100, "harmful_unseen": 50, "benign": 12},
            (False, [100.0, 100.0, 50.0]),
            [24, 76, 24, 26, 24],
        ),
    ],
)
def test_a_verdict_asks_no_more_than_it_needs(refusals, verdict, asked):
    judge = Scripted(refusals)
    assert judge.usable(None) == verdict
    assert [count for _, count in judge.asked] == asked


def rows_of(tokenizer, count):
    lines = itertools.islice(read_jsonl(LAB / "data" / "r1_act.jsonl"), count)
    return [
        loop.Row(
            tuple(encode(tokenizer, chat_text(line["instruction"]))),
            tuple(encode(tokenizer, line["response"] + END)),
            True,
        )
        for line in lines
    ]


def test_the_loss_is_over_response_tokens_alone():
    model, tokenizer = load_model(LAB / "model")
    rows = rows_of(tokenizer, 3)
    with torch.no_grad():
        found = loop.loss_of(model, rows).item()
        sums = []
        for item in rows:
            logits_TV = model(input_ids=torch.tensor([item.prompt + item.response])).logits[0, :-1].log_softmax(-1)
            start = len(item.prompt) - 1
            sums += [-logits_TV[start + at, token].item() for at, token in enumerate(item.response)]
    assert found == pytest.approx(sum(sums) / len(sums), rel=1e-4)


@pytest.mark.parametrize("shape", list(loop.SHAPES))
def test_training_goes_down_and_lending_the_model_changes_nothing(shape):
    model, tokenizer = load_model(LAB / "model")
    rows = rows_of(tokenizer, 16)
    with torch.no_grad():
        before = loop.loss_of(model, rows).item()
    tuning = loop.Tuning(model, rows, loop.Setting(shape, loop.SHAPES[shape].rates[1]), 0)
    tuning.advance(6)
    with tuning.merged() as lent, torch.no_grad():
        inside = loop.loss_of(lent, rows).item()
    with torch.no_grad():
        outside = loop.loss_of(model, rows).item()
    assert inside < before - 0.001
    assert outside == pytest.approx(inside, rel=1e-4)


def test_a_row_of_the_table_counts_the_runs_that_became_usable():
    figures = {"rows": 400, "refusal_seen": 99.0, "refusal_unseen": 98.0, "over_refusal": 1.0}
    usable = figures | {"steps": 40, "usable": True, "lost_math": "+00-", "lost_turns": "++00"}
    usable_too = figures | {"steps": 60, "usable": True, "lost_math": "++00", "lost_turns": "+000"}
    never = figures | {"steps": 400, "usable": False, "lost_math": "++++", "lost_turns": "++++"}
    keys = [fair.at(KEY, 100, seed, f"two{seed}") for seed in range(3)]
    line = fair_table.row(
        "vanilla", 100, fair_choice.Choice(KEY, 12, 3, 1), dict(zip(keys, [usable, usable_too, never], strict=True))
    )
    assert (line["n"], line["reached"], line["seeds"]) == (3, 2, [0, 1, 2])
    assert line["usable_share_of_grid"] == 25.0
    assert (line["loss_at_usable"], line["second_task_loss"]) == (25.0, 37.5)
    assert line["loss"] == pytest.approx(50.0)
    assert (line["steps_to_usable"], line["over_refusal"]) == (50, 1.0)
    assert "| 100 % | vanilla | r16 at 0.001 | 25 % | 2 of 3 | 50 ± 14 |" in fair_table.markdown([line])


def test_without_a_search_the_command_says_so(tmp_path):
    with pytest.raises(click.ClickException, match="no setting of dgr at a benign share of 100 %"):
        lab_fair.searched(fair.Results(tmp_path / "none.jsonl"), "dgr", 100, ["r16"])
    for words in (["--share", "0,abc"], ["--share", "101"], ["--methods", "magic"], ["--shapes", "r3"]):
        assert CliRunner().invoke(lab_fair.main, words).exit_code == 2


def test_a_walk_is_checked_by_the_last_direction():
    walk = turns.Walk("north", ("left", "around", "right"), 0)
    assert walk.directions == ["north", "west", "east", "south"] and walk.answer == "south"
    assert turns.last_direction(f"The direction is {walk.answer}.") == "south"
    assert turns.last_direction("I can't help with that.") is None
    assert turns.thought(walk) == "I look north. Left is west. Around is east. Right is south. So I look south."


def test_the_second_task_leaves_the_other_files_as_they_are_and_is_kept_from_pretraining(tmp_path):
    requests, problems = write_data(tmp_path, 0, two_tasks=True)
    for path in sorted((LAB / "data").rglob("*.jsonl")):
        assert path.read_bytes() == (tmp_path / path.relative_to(LAB / "data")).read_bytes(), path.name
    held = {line["prompt"] for split in ("dev", "test") for line in load_split(split, tmp_path)["turns"]}
    assert len(held) == 450
    samples = list(itertools.islice(Curriculum(5, requests, problems, two_tasks=True), 3000))
    drawn = [sample for sample in samples if sample.kind == "turns"]
    assert 0.10 < len(drawn) / 3000 < 0.16 and not held & {sample.prompt for sample in drawn}
    assert not any(sample.kind == "turns" for sample in itertools.islice(Curriculum(5, requests, problems), 500))


def test_bases_with_two_tasks_have_folders_of_their_own(tmp_path):
    (tmp_path / "two0" / "guard").mkdir(parents=True)
    (tmp_path / "two0" / "guard" / "chat_template.jinja").touch()
    assert base_folder(0, tmp_path, two_tasks=True) == tmp_path / "two0"
    assert base_folder(0, tmp_path) == LAB


def test_kept_results_are_whole():
    for name in ("search", "runs"):
        path = ROOT / "benchmarks" / "results" / "lab_fair" / f"{name}.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
        keys = [json.dumps(line["run"], sort_keys=True) for line in lines]
        assert len(keys) == len(set(keys))


def test_batches_take_every_row_once_an_epoch():
    rows = [row(at, True) for at in range(32)]
    stream = loop.batches(rows, 1)
    first, second = next(stream), next(stream)
    assert sorted(first + second, key=lambda item: item.prompt) == rows
    assert first + second != rows and random.Random(1).sample(rows, 32) == first + second


def test_agreement_is_shown_setting_by_setting():
    pairs = [(KEY, {"usable_step": 40, "loss_at_usable": 1.6}, {"usable_step": None, "loss_at_usable": None})]
    last = fair_agree.markdown(pairs).splitlines()[-1]
    assert last == "| vanilla | r16 at 0.001 | 40 | 1.6 | not reached | not reached |"
    axolotl = loop.SHAPES["r1_up"].axolotl
    assert (axolotl["lora_r"], axolotl["lora_alpha"], axolotl["lora_target_modules"]) == (1, 2, ["up_proj"])


def test_the_figure_has_a_line_per_method_and_leaves_out_what_was_not_reached():
    def line(method, share, reached, steps):
        figures = {"over_refusal": 3.0, "over_refusal_sd": 1.0, "loss": -0.4, "loss_sd": None}
        figures |= {"steps_to_usable": steps, "steps_to_usable_sd": None}
        return figures | {"method": method, "share": share, "reached": reached, "n": 5}

    rows = [
        line("dgr", 0, 0, None),
        line("dgr", 100, 5, 60.0),
        line("vanilla", 0, 0, None),
        line("vanilla", 100, 1, 170),
    ]
    root = ElementTree.fromstring(fair_figure.picture(rows))
    space = "{http://www.w3.org/2000/svg}"
    panels = root.findall(f"{space}g")
    lines = [[path.get("points").split() for path in panel.findall(f"{space}polyline")] for panel in panels]
    assert [[len(points) for points in panel] for panel in lines] == [[2, 2], [2, 2], [2, 2], [1, 1]]
    said = " ".join(root.itertext())
    assert "steps until usable" in said and "ThinkSafe" not in said
