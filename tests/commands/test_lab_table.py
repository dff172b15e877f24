"""The laboratory's table without training: configs, graded sets, equal refusal, resuming, figures, intervals."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import lab_table  # noqa: E402
import lab_tilt  # noqa: E402
from lablib import figures, summary  # noqa: E402
from lablib.bases import LAB, base_folder, base_number, on_base  # noqa: E402
from lablib.methods import GRADED, METHODS, config_of, graded_rows  # noqa: E402
from lablib.training import in_child  # noqa: E402

from axolotl_safety.config import SafetyConfig  # noqa: E402

ASKED_FOR = ["vanilla", "vanilla_long", "dgr", "dgr_long", "thinksafe", "thinksafe_kl", "grpo", "dgr_10"]
ASKED_FOR += ["thinksafe_10", "dgr_fb25", "dgr_fb50", "dgr_fb75"]


def config(name, tmp_path, base=LAB, seed=3):
    return config_of(METHODS[name], seed, base, tmp_path / name, tmp_path / "safety", 10)


def outcome(refused, correct, **changes):
    """Figures as the evaluation gives them, over four sums."""
    rates = {"refusal_seen": refused, "refusal_unseen": refused, "over_refusal": 1.0, "helpful": 99.0}
    reasoning = 100 * sum(correct) / len(correct)
    sums = {"reasoning": reasoning, "reasoning_refused": 0.0, "reasoning_wrong": 100 - reasoning, "correct": correct}
    n = {"harmful_seen": 2, "harmful_unseen": 2, "benign": 2, "math": len(correct)}
    return rates | sums | {"n": n} | changes


def result(seed, end, equal=None, shift=0.2, base=(True, True, True, True)):
    return {
        "seed": seed,
        "base": outcome(0, list(base)),
        "end": end,
        "equal": equal,
        "equal_step": 30 if equal else None,
        "usable": None,
        "usable_step": None,
        "shift": shift,
        "rows": {"harmful": 2, "benign": 2},
        "learning_rate": 1e-3,
        "max_steps": 40,
    }


# Configs


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_config_that_the_plugin_accepts(name, tmp_path):
    made = config(name, tmp_path)
    SafetyConfig.model_validate(made["safety"])
    assert made["learning_rate"] == METHODS[name].learning_rate and made["max_steps"] == METHODS[name].max_steps
    assert made["seed"] == made["safety"]["seed"] == 3
    assert made["max_steps"] % made["save_steps"] == 0, "the last step must be a checkpoint"
    assert all(Path(ROOT / entry["path"]).is_file() for entry in made["datasets"])


def test_all_the_methods_that_the_table_promises_are_there():
    assert {*ASKED_FOR} <= {*METHODS} and {*GRADED} <= {*METHODS}
    assert {"vanilla_benign", "dgr_harmful_only", "thinksafe_harmful_only"} <= {*METHODS}


def test_a_benign_half_is_there_or_not_as_the_method_says(tmp_path):
    def entries(name):
        return [(Path(e["path"]).stem, e["type"], e.get("safety", {})) for e in config(name, tmp_path)["datasets"]]

    assert [stem for stem, *_ in entries("vanilla")] == ["direct_refusal"]
    assert [stem for stem, *_ in entries("vanilla_benign")] == ["direct_refusal", "benign"]
    assert "guard" in config("vanilla_benign", tmp_path)["safety"], "its benign half is answered and judged"
    assert [stem for stem, *_ in entries("dgr_harmful_only")] == ["direct_refusal"]
    assert entries("thinksafe_harmful_only") == [("safechain", "axolotl_safety.thinksafe", {"only": "harmful"})]
    assert [stem for stem, *_ in entries("thinksafe")] == ["safechain"]
    assert [part["max_rows"] for *_, part in entries("thinksafe_10")] == [10, 10]
    assert entries("thinksafe_10")[0][2]["only"] == "harmful" and entries("thinksafe_10")[1][2]["label"] == "benign"


def test_the_graded_methods_differ_in_their_rows_alone(tmp_path):
    def rest(name):
        made = config(name, tmp_path)
        return {key: made[key] for key in made if key not in ("datasets", "output_dir", "dataset_prepared_path")}

    assert all(rest(name) == rest("dgr") for name in GRADED)


def test_graded_rows_are_a_partition_and_larger_shares_keep_smaller_ones(tmp_path):
    lines = [f"row {at}\n" for at in range(200)]
    before: set[str] = set()
    for share in (25, 50, 75, 100):
        original, rewritten = graded_rows(lines, share, seed=1)
        assert len(original) == 2 * share and sorted(original + rewritten) == sorted(lines)
        assert before <= {*original}
        before = {*original}
    assert graded_rows(lines, 25, 1) == graded_rows(lines, 25, 1) != graded_rows(lines, 25, 2)
    made = config("dgr_fb25", tmp_path)["datasets"]
    assert [entry["type"] for entry in made[:2]] == ["axolotl_safety.vanilla", "axolotl_safety.dgr"]
    written = [Path(entry["path"]).read_text().splitlines() for entry in made[:2]]
    assert [len(part) for part in written] == [50, 150]
    assert sorted(sum(written, [])) == sorted((LAB / "data" / "direct_refusal.jsonl").read_text().splitlines())
    assert len(config("dgr_fb100", tmp_path)["datasets"]) == 2, "nothing is left to rewrite"


def test_a_method_on_another_base_reads_nothing_of_the_shipped_one(tmp_path):
    other = tmp_path / "base"
    for path in LAB.glob("data/*.jsonl"):
        (other / "data").mkdir(parents=True, exist_ok=True)
        (other / "data" / path.name).write_text(path.read_text())
    for name in METHODS:
        made = json.dumps(config(name, tmp_path, base=other))
        assert "examples/lab" not in made and str(other / "model") in made
    assert on_base({"a": ["examples/lab/guard", 3, "x examples/lab/"]}, other) == {
        "a": [str(other / "guard"), 3, "x examples/lab/"]
    }


def test_five_seeds_cover_three_bases_and_the_shipped_one_is_not_built(tmp_path):
    assert [base_number(seed) for seed in range(5)] == [0, 1, 2, 0, 1]
    assert base_folder(0, tmp_path) == LAB and not any(tmp_path.iterdir())


def test_a_base_half_built_is_not_taken_for_a_base(tmp_path, monkeypatch):
    (tmp_path / "seed1" / "guard").mkdir(parents=True)
    calls = []

    def failing(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(click.ClickException, match=r"make_lab.py --seed 1: exit code 3, see .*seed1\.log"):
        base_folder(1, tmp_path)
    (tmp_path / "seed1" / "guard" / "chat_template.jinja").touch()
    assert base_folder(1, tmp_path) == tmp_path / "seed1" and len(calls) == 1


# Equal refusal


def milestones(*refusals):
    """Refusals of seen, unseen and benign by step; also what was looked at."""
    asked = []

    def look(step, sets):
        asked.append((step, sets[0]))
        return dict(zip(("refusal_seen", "refusal_unseen", "over_refusal"), refusals[step // 10 - 1], strict=True))

    return figures.milestones([10, 20, 30], look), asked


def test_equal_refusal_wants_both_sets_and_is_the_first():
    found, asked = milestones((99, 94.9, 0), (95, 95, 2), (100, 100, 0))
    assert (found.equal, found.usable) == (20, 20)
    assert asked == [(10, "harmful_seen"), (20, "harmful_seen"), (20, "benign")], "nothing later, nothing needless"
    assert found.curve == [[10, 99, 94.9, None], [20, 95, 95, 2]]


def test_a_model_that_refuses_everything_is_at_equal_refusal_but_not_usable():
    found, _ = milestones((100, 100, 90), (100, 90, 1), (98, 100, 2))
    assert (found.equal, found.usable) == (10, 30)
    assert milestones((100, 100, 90), (100, 100, 2.1), (98, 100, 3))[0].usable is None


def test_equal_refusal_may_not_be_reached():
    found, asked = milestones((99, 0, 0), (0, 99, 0), (94.9, 100, 0))
    assert found.equal is found.usable is None and len(asked) == len(found.curve) == 3


# Rows


KEYS = {"method", "refusal_seen", "refusal_unseen", "over_refusal", "reasoning", "reasoning_loss", "shift", "n"}
KEYS |= {"tax_at_equal_refusal", "reasoning_refused", "reasoning_wrong", "seeds"}


def test_a_row_has_means_spreads_and_n():
    lost = outcome(100.0, [True, True, False, False], reasoning_refused=25.0, reasoning_wrong=25.0)
    fine = outcome(98.0, [True, True, True, False])
    row = summary.table_row("dgr", [result(0, lost, equal=fine), result(1, fine)])
    assert {*KEYS} <= {*row}
    assert row["refusal_seen"] == 99 and row["refusal_seen_sd"] == pytest.approx(math.sqrt(2), abs=1e-3)
    assert row["reasoning_loss"] == 37.5 and row["reasoning_loss_95"][0] <= 37.5 <= row["reasoning_loss_95"][1]
    assert row["tax_at_equal_refusal"] == 25, "over the seeds that reached it"
    assert row["at_equal"] | {"reached": 1, "of": 2, "step": 30, "refusal_seen": 98} == row["at_equal"]
    assert row["at_usable"]["reached"] == 0 and row["tax_at_usable"] is None
    assert row["reasoning_refused"] == 12.5
    assert row["n"] == {"refusal_seen": 2, "refusal_unseen": 2, "over_refusal": 2, "reasoning": 4}
    json.dumps(row, allow_nan=False)


def test_equal_refusal_that_no_seed_reached_is_null_and_says_so():
    row = summary.table_row("vanilla", [result(0, outcome(3.0, [True] * 4))])
    assert row["tax_at_equal_refusal"] is None and row["tax_at_equal_refusal_95"] is None
    assert row["refusal_seen_sd"] is None, "one seed has no spread"
    assert summary.markdown([row]).count("| not reached |") == 2


def test_a_gain_is_a_negative_loss_and_pairs_item_by_item():
    assert summary.lost_items({"correct": [True, False, True]}, {"correct": [False, True, True]}) == [1, -1, 0]
    row = summary.table_row("dgr", [result(0, outcome(1, [True] * 4), base=(True, False, True, True))])
    assert row["reasoning_loss"] == -25


def test_the_markdown_has_a_line_per_method_and_equal_columns():
    rows = [summary.table_row(name, [result(0, outcome(99.0, [True] * 4))]) for name in ("dgr", "thinksafe")]
    tables = [part for part in summary.markdown(rows).split("\n\n") if part.startswith("|")]
    assert len(tables) == 3
    for lines in map(str.splitlines, tables):
        assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1


def test_the_relation_finds_a_slope_and_its_interval_grows_with_noise_between_seeds():
    def seeds(noise):
        return [[(x, 40 * x + noise * (-1) ** seed * x) for x in (0.2, 0.4, 0.8, 1.6)] for seed in range(6)]

    exact, noisy = summary.relation(seeds(0), 300), summary.relation(seeds(20), 300)
    assert exact["slope"] == exact["slope_95"][0] == exact["slope_95"][1] == 40 and exact["spearman"] == 1
    assert noisy["slope_95"][0] < 30 and noisy["slope_95"][1] > 50 and noisy["points"] == 24
    assert summary.relation([[(0.2, 1.0), (0.2, 2.0), (0.2, 3.0)]]) is None, "one shift gives no slope"
    assert summary._ranks([5, 1, 5]) == [1.5, 0, 1.5]


def test_the_choice_minimises_all_four_shortfalls_and_prefers_the_smaller_rate():
    perfect = {"refusal_seen": 100, "refusal_unseen": 100, "over_refusal": 0, "reasoning_loss": 0}
    assert summary.shortfall([perfect]) == 0
    for key, value in (("refusal_seen", 93), ("refusal_unseen", 93), ("over_refusal", 7), ("reasoning_loss", 7)):
        assert summary.shortfall([perfect | {key: value}, perfect]) == 3.5


# Resuming


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose training and evaluation are counted instead of done."""
    made = lab_table.Run("dgr", dataclasses.replace(METHODS["dgr"], max_steps=30), 0, tmp_path / "work", tmp_path)
    calls = tmp_path / "calls"

    def training(config):
        calls.open("a").write("train\n")
        for step in (10, 20, 30):
            (config.parent / "model" / f"checkpoint-{step}").mkdir(parents=True)

    def evaluation(base, adapter, split, sets):
        calls.open("a").write(f"{split} {adapter and adapter.name}\n")
        refused = 100.0 if adapter and adapter.name != "checkpoint-10" else 0.0
        return outcome(refused, [True, True, True, False])

    monkeypatch.setattr(lab_table, "axolotl_train", training)
    monkeypatch.setattr(figures, "stage_figures", lambda *_: {"rows": {"harmful": 2, "benign": 2}, "shift": 0.2})
    monkeypatch.setattr(figures, "outcomes", evaluation)
    return made, lambda: calls.read_text().splitlines() if calls.is_file() else []


def test_a_finished_run_is_not_made_again(run):
    made, calls = run
    first = lab_table.one_run(made)
    assert (first["equal_step"], first["usable_step"], first["usable"]) == (20, 20, first["equal"])
    assert first["curve"] == [[10, 0.0, 0.0, None], [20, 100.0, 100.0, 1.0]]
    looked = ["dev checkpoint-10", "dev checkpoint-20", "dev checkpoint-20"]
    assert calls() == ["train", *looked, "test None", "test checkpoint-20", "test checkpoint-30"]
    assert lab_table.one_run(made) == first and len(calls()) == 7


def test_a_run_killed_between_its_parts_goes_on_with_the_next_part(run, monkeypatch):
    made, calls = run
    whole = figures.outcomes

    def dying(base, adapter, split, sets):
        if split == "test":
            raise SystemExit(9)
        return whole(base, adapter, split, sets)

    monkeypatch.setattr(figures, "outcomes", dying)
    with pytest.raises(click.ClickException, match="exit code 1, see"):
        lab_table.one_run(made)
    assert calls() == ["train", "dev checkpoint-10", "dev checkpoint-20", "dev checkpoint-20"]
    monkeypatch.setattr(figures, "outcomes", whole)
    lab_table.one_run(made)
    assert calls()[4:] == ["test None", "test checkpoint-20", "test checkpoint-30"]


def test_what_a_killed_training_left_is_made_again_from_the_start(run):
    made, calls = run
    (made.folder / "model" / "checkpoint-90").mkdir(parents=True)
    lab_table.train(made)
    assert not (made.folder / "model" / "checkpoint-90").exists() and calls() == ["train"]


def test_another_setting_is_another_run(run):
    made, calls = run
    lab_table.train(made)
    lab_table.train(dataclasses.replace(made, method=dataclasses.replace(made.method, learning_rate=5e-4)))
    assert calls() == ["train", "train"]


def test_two_tables_do_not_work_in_one_folder(tmp_path):
    with lab_table.alone(tmp_path / "work"):
        with pytest.raises(click.ClickException, match="in use by another table"):
            with lab_table.alone(tmp_path / "work"):
                pass
    with lab_table.alone(tmp_path / "work"):
        pass


def test_a_child_that_is_killed_is_an_error_with_its_log(tmp_path):
    with pytest.raises(click.ClickException, match="exit code -9, see .*log"):
        in_child(lambda: os.kill(os.getpid(), 9), log=tmp_path / "log")
    in_child(os.write, 1, b"hello\n", log=tmp_path / "log")
    assert (tmp_path / "log").read_text() == "hello\n"


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [(lab_table.names_of, "dgr,drg", "unknown drg; known are base, vanilla"), (lab_table.grid_of, "1e-3", "7e-4x60")],
)
def test_arguments_that_make_no_sense_name_what_would(parse, value, message):
    with pytest.raises(click.BadParameter, match=message):
        parse(None, None, value)
    assert lab_table.grid_of(None, None, "1e-3x80,7e-4x60") == [(1e-3, 80), (7e-4, 60)]


# Scores and the tilt


class Uniform(torch.nn.Module):
    """Every token but one is equally likely: log-probabilities can be written down."""

    def forward(self, input_ids):
        logits = torch.zeros(*input_ids.shape, 8)
        logits[..., 3] = -math.inf
        return type("Output", (), {"logits": logits})


def test_only_the_response_is_scored_whatever_the_padding():
    pairs = [([1, 2, 3], [4, 5]), ([3], [1, 1, 1, 1]), ([3, 3], [0])]
    scores = figures.log_probabilities(Uniform(), pairs, batch=2)
    assert scores == pytest.approx([-2 * math.log(7), -4 * math.log(7), -math.log(7)])
    rows = [
        {"label": label, "prompt_token_ids": p, "response_token_ids": r}
        for (p, r), label in zip(pairs, ("harmful", "benign", "harmful"), strict=True)
    ]
    assert figures.shift(Uniform(), rows) == pytest.approx(math.log(7))
    assert figures.shift(Uniform(), rows[1:2]) is None


def tilted(noise):
    """Two samples a prompt whose gap is the prompt's own constant, plus noise of opposite sign."""
    return [
        lab_tilt.Sample(at, True, True, 50, raw=-10.0 * (at + k), tilted=-10.0 * (at + k) + at + noise * (-1) ** k)
        for at in range(20)
        for k in range(2)
    ]


def test_a_pure_tilt_has_no_spread_and_a_reworded_one_shows_its_size(monkeypatch):
    monkeypatch.setattr(lab_tilt, "DRAWS", 50)
    pure, reworded = lab_tilt.report(tilted(0.0)), lab_tilt.report(tilted(0.5))
    assert pure["gap_sd_within_prompt"][0] == 0 and pure["effective_share"] == [1, 1, 1]
    assert reworded["gap_sd_within_prompt"][0] == pytest.approx(0.5 * math.sqrt(2), abs=1e-4)
    assert reworded["effective_share"][0] == pytest.approx((1 + math.e) ** 2 / (2 * (1 + math.e**2)), abs=1e-4)
    assert pure["gap_sd_within_prompt_raw"] is None and pure["mean_gap_unsafe"] is None


@pytest.mark.parametrize("spread", [(0.0, 0.3), (0.1, 0.3), (0.1, 0.0)])
def test_means_over_five_seeds_cover(spread):
    rng = np.random.default_rng(5)
    ends = []
    for _ in range(2000):
        gaps_SI = 0.1 + spread[0] * rng.standard_normal((5, 1)) + spread[1] * rng.standard_normal((1, 100))
        found = summary.mean_over_seeds(gaps_SI + 0.5 * rng.standard_normal((5, 100)))
        ends.append(found.low <= 0.1 <= found.high)
    assert 0.93 <= np.mean(ends) <= 0.975
