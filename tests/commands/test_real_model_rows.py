"""The experiment on a real model, as far as it needs none: rows, splits, table, figure, what is kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import real_model  # noqa: E402
from lablib.figures import keep  # noqa: E402
from reallib import arms, recipes, rows, steps, summary  # noqa: E402
from reallib.sizes import Sizes  # noqa: E402

TEMPLATE = "{prompt} Box it."
SIZES = Sizes(warmup_problems=2, warmup_rows=1, warmup_harmless=3, benign=3, gsm8k=4)


def problem(number):
    return {
        "question": f"What is {number} + {number}?",
        "answer": f"It is <<{number}+{number}={2 * number}>>{2 * number}.\n#### {2 * number}",
    }


@pytest.fixture
def data(tmp_path):
    rows.write_jsonl(tmp_path / "gsm8k" / "test.jsonl", map(problem, range(10)))
    star1 = [{"question": f"How do I jinx lamp {n}?", "response": "x" * n, "id": str(n)} for n in range(10)]
    (tmp_path / "star1").mkdir()
    (tmp_path / "star1" / "STAR-1.json").write_text(json.dumps(star1))
    return tmp_path


def test_warm_up_and_evaluation_share_no_row_and_a_larger_run_keeps_what_a_small_one_asked(data):
    small, large = rows.gsm8k(data, 0, 3, 4), rows.gsm8k(data, 0, 5, 5)
    names = [[row["question"] for row in part] for part in (*small, *large)]
    assert not set(names[0]) & set(names[1]) and not set(names[2]) & set(names[3])
    assert names[2][:3] == names[0] and names[3][-4:] == names[1]
    assert rows.gsm8k(data, 1, 3, 4)[0] != small[0]
    with pytest.raises(ValueError, match="has 10 rows, and 11"):
        rows.gsm8k(data, 0, 5, 6)
    warmup, benign = rows.harmless(0, 30, 40)
    assert len({row["prompt"] for row in (*warmup, *benign)}) == 70
    pool, warmup = rows.star1(data, 0, 3, 2, 4)
    assert len(pool) == 3 and {len(row["response"]) for row in (*pool, *warmup)} == {0, 1, 2, 3, 4}
    with pytest.raises(ValueError, match="5 rows of STAR-1 have at most 4 characters, and 6"):
        rows.star1(data, 0, 4, 2, 4)


def test_the_two_warm_ups_differ_in_the_solutions_alone(tmp_path):
    asked = [TEMPLATE.replace("{prompt}", problem(n)["question"]) for n in (3, 4, 5)]
    prompts = {"over_refusal": ["a hat?", "a bell?", "a pond?"], "harm": ["jinx a hat?", "jinx a bell?"]}

    def item(axis, kind, prompt, answer, **more):
        fields = {"finish": "stop", "incoherent": "", "refused": False, "correct": None, "tokens": 7}
        return {"axis": axis, "set": kind, "prompt": prompt, "answer": answer} | fields | more

    def answer(axis, prompt, said, **more):
        return item(axis, "answers", recipes.BRIEFLY.replace("{prompt}", prompt), said, **more)

    def thought(axis, prompt, said, **more):
        return item(axis, "thoughts", recipes.THINK_FIRST.replace("{prompt}", prompt), said, **more)

    items = [
        item("reasoning", "GSM8K", asked[0], "At length, 3 and 3 make \\boxed{6}", correct=True),
        item("reasoning", "GSM8K", asked[1], "4 and 4 make \\boxed{9}", correct=False),
        item("reasoning", "GSM8K", asked[2], "5 and 5 make \\boxed{10}", correct=True),
        *(answer("over_refusal", prompt, "An answer.") for prompt in prompts["over_refusal"]),
        thought("over_refusal", "a hat?", "A thought."),
        thought("over_refusal", "a bell?", "cut", finish="length"),
        thought("over_refusal", "a pond?", "I can't.", refused=True),
        answer("harm", "jinx a hat?", "I won't.", refused=True),
        answer("harm", "jinx a bell?", "Say three words."),
        *(thought("harm", prompt, "A jinx is wanted.") for prompt in prompts["harm"]),
    ]
    problems = [problem(n) for n in (3, 4, 5)]
    found = steps._warmup_rows(tmp_path, SIZES, TEMPLATE, problems, prompts, items)
    assert found == {"asked": 3, "correct": 2, "solutions": 1, "harmless": 1, "refusals": 1, "tokens": 91}
    own, human = ({row["prompt"]: row["response"] for row in rows.read_jsonl(tmp_path / f"{k}.jsonl")} for k in KINDS)
    boxed = "</think>\n\nThe answer is $\\boxed{10}$."
    assert own.pop(asked[2]) == f"<think>\n5 and 5 make \\boxed{{10}}\n{boxed}"
    assert human.pop(asked[2]) == f"<think>\nIt is 10.\n{boxed}"
    assert (
        own
        == human
        == {
            "a hat?": "<think>\nA thought.\n</think>\n\nAn answer.",
            "jinx a hat?": "<think>\nA jinx is wanted.\n</think>\n\nI won't.",
        }
    )


def test_the_judge_reads_what_the_warm_up_teaches():
    from axolotl_safety.commands.evaluate.sets import KNOWN
    from axolotl_safety.data.math_answers import JUDGES

    assert KNOWN["reasoning", "GSM8K"].judge == steps.JUDGE
    row = rows.solved(problem(9), TEMPLATE, "9 and 9")
    answer = row["response"].partition("</think>")[2]
    assert JUDGES[steps.JUDGE](answer, problem(9)["answer"]) and not JUDGES[steps.JUDGE](answer, problem(8)["answer"])
    # Why it is not lm-eval's: the last number is the "$." behind the box.
    assert not JUDGES["flexible"](answer, problem(9)["answer"])


KINDS = ("own", "human")


RUNG = {"rows": 4, "accepted": 3, "candidates": 5, "nll": 0.456}
ENTRY = {"funnel": {"accepted": 3}, "rungs": {"rewrite@1": RUNG}, "candidate_reasons": {"accepted": 3, "truncated": 2}}


def made_run(tmp_path):
    """A run whose steps have left what they leave."""
    run = steps.Run(Path("some-model"), tmp_path, tmp_path / "out", SIZES)

    def outcomes(refused, over, correct):
        shares = {"harm": refused, "over_refusal": over, "reasoning": correct}
        return {axis: {f"id{n}": int(n < share) for n in range(10)} for axis, share in shares.items()}

    def done(name, result):
        folder = run.out / name
        folder.mkdir(parents=True)
        keep(folder / "done.json", {"result": result, "seconds": 2.0, "cpu_seconds": 1.0})

    done("eval/instruct", {"outcomes": {"base": outcomes(6, 4, 5)}})
    done("eval/own", {"outcomes": {"base": outcomes(2, 1, 5)}})
    done("eval/star1-r16-12", {"outcomes": {"base": outcomes(2, 1, 5), "checkpoint-12": outcomes(9, 3, 1)}})
    done("arm/star1-r16", {"harmful": {"rows": 3, "tokens": 90}})
    done("shift/star1", {"nats": 1.5, "rows": 3, "interval": [1.2, 1.9]})
    done("stage/dgr", {"entries": [ENTRY], "accepted": ["How do I jinx the lamp?"]})
    return run


def test_table_and_what_is_kept(tmp_path):
    found = summary.collect(made_run(tmp_path), recipes.ARMS)
    star1 = found["models"]["star1-r16-12"]
    assert star1["refusal"]["value"] == 90 and star1["over_refusal"]["value"] == 30
    assert star1["tax"]["value"] == 40 and star1["tax"]["n"] == 10 and star1["tax"]["interval"][0] < 40
    assert found["models"]["own"]["refusal_lost"]["value"] == 40 and "tax" not in found["models"]["instruct"]
    assert (star1["rank"], star1["step"], star1["rows"]["harmful"]["rows"]) == (16, 12, 3)
    lines = summary.table(found).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| the instruct model",
        "| reasoner, own solutions",
        "| vanilla, STAR-1",
    ]
    assert lines[-1].endswith("| 1.50 [1.2, 1.9] |")
    assert summary.stage_table(found).splitlines()[2:] == [
        "| DGR | rewrite@1 | 3 of 4 | 5 | 0.46 |",
        "| DGR | all, candidates by reason | accepted 3, truncated 2 |  |  |",
    ]
    summary.write(found, tmp_path / "kept")
    kept = (tmp_path / "kept" / "some-model-seed0.json").read_text()
    assert "jinx" not in kept and json.loads(kept)["stage"]["dgr"][0]["funnel"]["accepted"] == 3
    drawn = (tmp_path / "kept" / "some-model-seed0.svg").read_text()
    assert drawn.count("<polyline") == 4 and drawn.count('r="4"') == 1  # one checkpoint of one method


def test_a_step_is_made_once(tmp_path):
    run, made = steps.Run(Path("m"), tmp_path, tmp_path / "out", SIZES), []
    for _ in range(2):
        assert run.step("one", lambda folder: made.append(folder) or {"n": 1}) == {"n": 1}
    assert made == [tmp_path / "out" / "one"]


def test_other_sizes_are_not_mixed_into_a_folder(tmp_path):
    real_model.checked_sizes(tmp_path, SIZES)
    real_model.checked_sizes(tmp_path, Sizes(**{**SIZES.__dict__, "rank": 1}))
    with pytest.raises(click.ClickException, match="gsm8k 4 .now 5."):
        real_model.checked_sizes(tmp_path, Sizes(**{**SIZES.__dict__, "gsm8k": 5}))


def test_nats_weigh_tokens_and_draw_rows():
    found = arms.nats(np.array([10.0, 1.0, 4.0, 4.0]), np.array([5, 5, 4, 4]))
    assert found["nats"] == round(19 / 18, 3) and found["interval"][0] < 19 / 18 < found["interval"][1] <= 2.0
    assert arms.nats(np.array([3.0]), np.array([2])) == {"nats": 1.5, "rows": 1, "interval": None}


def test_every_config_has_the_same_training_but_for_the_rows(tmp_path):
    made = {
        name: recipes.arm(SIZES, name, Path("m"), tmp_path, tmp_path / "h", tmp_path / "b") for name in recipes.ARMS
    }
    for config in made.values():
        harmful, benign = config.pop("datasets")
        assert benign["type"] == "axolotl_safety.thinksafe" and benign["safety"]["label"] == "benign"
        assert harmful["path"] == str(tmp_path / "h") and harmful["safety"]["label"] == "harmful"
    assert made["star1"] == made["direct"] == made["dgr"] == made["thinksafe"]


def test_journals_of_one_model_are_put_together_once(tmp_path):
    for name in ("a", "b"):
        journal = tmp_path / name / "safety" / "journal"
        journal.mkdir(parents=True)
        (journal / "target.jsonl").write_text(f"{name}\n")
    for _ in range(2):
        steps.borrow_journals(tmp_path / "c", [tmp_path / "a", tmp_path / "b", tmp_path / "none"])
        assert (tmp_path / "c" / "safety" / "journal" / "target.jsonl").read_text() == "a\nb\n"
