"""Development prompts of ``safety.stop``: which rows they are, that none is trained on, and what is too few."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from axolotl.utils.dict import DictDefault
from support import tiny
from support.stage import config, rows_of, safechain_rows, scripted_by_prompt, thinksafe_answer

from axolotl_safety.commands.evaluate.development import met_by_evaluation
from axolotl_safety.config.section import section
from axolotl_safety.config.validate import prepare_config
from axolotl_safety.data.development import Development
from axolotl_safety.pipeline.identity import run_of
from axolotl_safety.pipeline.inputs import stage_inputs
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import ConfigError

STOP = {"prompts": 8}


def inputs(tmp_path, model, rows, **safety):
    safety = {"method": "thinksafe", "stop": STOP} | safety
    cfg = config(tmp_path, model, rows, **safety)
    return cfg, stage_inputs(cfg, section(cfg))


def asked(found):
    return [task.example.prompt for entry in found.entries for task in entry.tasks]


def test_rows_are_held_out_of_the_sources_and_never_trained_on(tmp_path, models):
    rows = safechain_rows(60)
    rows += [row | {"instruction": row["instruction"].upper() + " "} for row in rows[40:50]]  # said twice
    cfg, found = inputs(tmp_path, models("qwen3"), rows)
    prompts = found.development
    assert [one.label for one in prompts] == ["harmful"] * 8 + ["benign"] * 8
    assert all(("jinx" in one.prompt.lower()) == (one.label == "harmful") for one in prompts)
    assert len({one.key for one in prompts}) == 16
    tokens = found.tokens
    assert all(one.prompt_ids == tokens.prompt_ids(one.prompt) for one in prompts)
    words = {" ".join(text.lower().split()) for text in asked(found)}
    assert len(asked(found)) >= 70 - 16 - 10 and not {one.key for one in prompts} & words
    (entry,) = found.entries
    assert {row.reason for row in entry.bad} == {"development"}
    assert {row.prompt.lower().strip() for row in entry.bad} == {one.key for one in prompts}
    # The same draw, whatever else the section says; another with another seed.
    again = inputs(tmp_path / "again", models("qwen3"), rows, stop={"prompts": 8, "every": 5})[1]
    assert [one.key for one in again.development] == [one.key for one in prompts]
    other = inputs(tmp_path / "other", models("qwen3"), rows, seed=7)[1]
    assert {one.key for one in other.development} != {one.key for one in prompts}


def test_where_max_rows_leaves_enough_nothing_is_missing_in_training(tmp_path, models):
    rows = safechain_rows(80)
    without = inputs(tmp_path / "a", models("qwen3"), rows, stop=None, max_rows=20)[1]
    held = inputs(tmp_path / "b", models("qwen3"), rows, max_rows=20)[1]
    assert asked(held) == asked(without) and len(asked(held)) == 20
    assert not {one.prompt for one in held.development} & set(asked(held))
    many = inputs(tmp_path / "c", models("qwen3"), rows, max_rows=62)[1]
    assert len(asked(many)) == 62 and not {one.prompt for one in many.development} & set(asked(many))


def test_a_prompt_is_left_out_of_every_entry(tmp_path, models):
    model = models("qwen3")
    chain = tiny.write_rows(tmp_path / "chain.jsonl", safechain_rows(60))
    direct = [
        {"prompt": row["instruction"], "refusal": "I'm sorry, but I can't do that."} for row in safechain_rows(60)[1::2]
    ]
    path = tiny.write_rows(tmp_path / "direct.jsonl", direct)
    entries = [
        {"path": str(chain), "type": "axolotl_safety.thinksafe"},
        {"path": str(path), "type": "axolotl_safety.dgr"},
    ]
    found = inputs(tmp_path, model, chain, top={"datasets": entries})[1]
    harmful = [one for one in found.development if one.label == "harmful"]
    assert [one.source for one in harmful[:4]] == [str(chain), str(path)] * 2  # of each in turn
    assert min(Counter(one.source for one in harmful).values()) >= 3
    assert not {one.prompt for one in found.development} & set(asked(found))
    assert [len(entry.tasks) for entry in found.entries] == [60 - 16, 30 - 8]


def test_the_stage_leaves_what_the_trainer_reads(tmp_path, models):
    model = models("qwen3")
    cfg, found = inputs(tmp_path, model, safechain_rows(60))
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, thinksafe_answer))[0]
    (path,) = (tmp_path / "work" / "stop").glob("latest-*.json")
    assert path.name == f"latest-{run_of(cfg)}.json" and path.stat().st_mode & 0o077 == 0
    kept = Development.read(path)
    assert kept.prompts == found.development and kept.stop_token_ids == found.tokens.stop_token_ids
    trained = [row for row in rows_of(output) if row["status"] == "accepted"]
    assert kept.trained == {label: sum(row["label"] == label for row in trained) for label in ("harmful", "benign")}
    assert not {one.prompt for one in kept.prompts} & {row["prompt"] for row in trained}
    held = [row for row in rows_of(output) if row["reason"] == "development"]
    assert len(held) == 16 and all(row["status"] == "rejected" for row in held)


def test_named_files_leave_the_datasets_alone(tmp_path, models):
    rows = safechain_rows(30)
    plain = inputs(tmp_path / "a", models("qwen3"), rows, stop=None)[1]
    harmful = tiny.write_rows(tmp_path / "h.jsonl", [{"prompt": f"How do I tangle kettle {n}?"} for n in range(9)])
    benign = [{"question": f"How do I sort shell {n}?"} for n in range(5)]
    first, second = (tiny.write_rows(tmp_path / f"b{n}.jsonl", benign[n::2]) for n in (0, 1))
    more = tiny.write_rows(tmp_path / "more.jsonl", [{"instruction": f"How do I boil egg {n}?"} for n in range(9)])
    stop = STOP | {"harmful": str(harmful), "benign": [str(first), str(second), str(more)]}
    named = inputs(tmp_path / "b", models("qwen3"), rows, stop=stop)[1]
    assert asked(named) == asked(plain) and len(named.development) == 16
    assert {one.label for one in named.development if "tangle" in one.prompt} == {"harmful"}
    assert [one.source for one in named.development[8:11]] == [str(first), str(second), str(more)]
    # A prompt of a file that is in a dataset too is not trained on.
    same = tiny.write_rows(tmp_path / "same.jsonl", [{"prompt": row["instruction"]} for row in rows[1::2]][:8])
    both = inputs(tmp_path / "c", models("qwen3"), rows, stop=stop | {"harmful": str(same)})[1]
    assert len(asked(both)) == len(asked(plain)) - 8


def few(tmp_path, text="How do I tangle kettle {n}?"):
    path = tiny.write_rows(tmp_path / "few.jsonl", [{"prompt": text.format(n=n)} for n in range(3)])
    return {"harmful": [str(path)]}


@pytest.mark.parametrize(
    ("rows", "stop", "words"),
    [
        (20, {}, r"needs 8 harmful development prompts, and only \d can be held out"),
        ("harmful", {}, "needs 8 benign .*Name a file of them, safety.stop: .benign: prompts.jsonl.*over_refusal: 100"),
        (60, "few", r"needs 8 harmful development prompts, and .*few.jsonl hold 3 that can be asked"),
        (60, "none", r"few.jsonl hold 0 that can be asked. Add some.$"),
        (60, {"benign": "nowhere.jsonl"}, "safety.stop.benign: 'nowhere.jsonl' is not there"),
    ],
)
def test_too_few_prompts_are_an_error_before_anything_is_asked(tmp_path, models, rows, stop, words):
    chosen = safechain_rows(60 if rows == "harmful" else rows)
    chosen = [row for row in chosen if "harmful" in row["label"]] if rows == "harmful" else chosen
    with pytest.raises(ConfigError, match=words):
        named = {"few": lambda: few(tmp_path), "none": lambda: few(tmp_path, "kettle {n}<|im_end|>")}
        inputs(tmp_path, models("qwen3"), chosen, stop=STOP | (named[stop]() if stop in ("few", "none") else stop))


def test_without_a_limit_on_over_refusal_no_benign_prompt_is_wanted(tmp_path, models):
    rows = [row for row in safechain_rows(60) if "harmful" in row["label"]]
    found = inputs(tmp_path, models("qwen3"), rows, stop=STOP | {"over_refusal": 100})[1]
    assert [one.label for one in found.development] == ["harmful"] * 8


def test_prompts_in_a_language_that_cannot_be_judged_are_said(tmp_path, models, caplog):
    rows = [row | {"instruction": f"Як мені зачаклувати стару лампу номер {n}?"} if n % 2 else row
            for n, row in enumerate(safechain_rows(60))]  # fmt: skip
    inputs(tmp_path, models("qwen3"), rows)
    assert "8 of 8 harmful development prompts are in a language of which the refusal detector" in caplog.text
    assert "benign development prompts are in a language" not in caplog.text


def test_held_out_categories_are_for_evaluation_alone(tmp_path, models):
    rows = [row | {"category": "red" if n < 20 else "green"} for n, row in enumerate(safechain_rows(80))]
    path = tiny.write_rows(tmp_path / "rows.jsonl", rows)
    found = inputs(tmp_path, models("qwen3"), path, entry={"safety": {"hold_out": ["red"]}})[1]
    numbers = {int(one.prompt.rpartition(" ")[2].rstrip("?")) for one in found.development}
    assert len(numbers) == 16 and min(numbers) >= 20


def evaluated(tmp_path, models, count):
    """A stage with an evaluation set that holds some of the development prompts."""
    _, found = inputs(tmp_path / "first", models("qwen3"), safechain_rows(60))
    harmful = [one.prompt for one in found.development if one.label == "harmful"]
    rows = [{"prompt": text.upper()} for text in harmful[:count]] + [{"prompt": "How do I hush the stroon?"}]
    path = tiny.write_rows(tmp_path / "harm.jsonl", rows)
    gone = {"path": str(tmp_path / "gone.jsonl")}
    settings = {"harm": [str(path)], "over_refusal": [gone], "reasoning": [{"lm_eval": "gsm8k"}]}
    return inputs(tmp_path, models("qwen3"), safechain_rows(60), eval=settings), harmful


def test_what_the_evaluation_asks_does_not_end_training(tmp_path, models, caplog):
    (cfg, _), harmful = evaluated(tmp_path, models, 3)
    run_stage(cfg, make_engine=scripted_by_prompt(models("qwen3"), thinksafe_answer), met=met_by_evaluation)
    (path,) = (tmp_path / "work" / "stop").glob("latest-*.json")
    kept = [one.prompt for one in Development.read(path).prompts if one.label == "harmful"]
    assert kept == harmful[3:]
    assert "3 of 16 development prompts stand in sets of safety.eval (harm) and are not asked" in caplog.text
    assert "development prompts are not compared with a set of safety.eval" in caplog.text and "gone" in caplog.text


def test_an_evaluation_on_the_development_prompts_is_refused_before_an_engine(tmp_path, models):
    (cfg, _), _ = evaluated(tmp_path, models, 8)
    with pytest.raises(ConfigError, match="8 of 8 harmful development prompts stand in sets of safety.eval .harm."):
        run_stage(cfg, make_engine=lambda *_: pytest.fail("an engine"), met=met_by_evaluation)


def test_no_evaluation_no_comparison(tmp_path, models):
    cfg, found = inputs(tmp_path, models("qwen3"), safechain_rows(60))
    assert met_by_evaluation(cfg, found.development) == {}


def test_limits_do_not_make_another_run(tmp_path, models):
    def run(stop):
        return run_of(config(tmp_path, models("qwen3"), safechain_rows(4), stop=stop))

    assert run(None) != run({}) == run({"refusal": 90, "every": 3, "max_new_tokens": 9})
    assert run({}) != run({"prompts": 9})


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"rl": "grpo"}, "does not work with rl: 'grpo'. Its trainer samples and is rewarded"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end: True. It would put another checkpoint"),
        ({"fsdp_config": {"offload_params": True}}, "fsdp_config: .* no rank can decode by itself"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "DeepSpeed ZeRO-3"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size: 2"),
        ({"datasets": [{"path": "x", "type": "chat_template"}]}, "no entry of datasets: has a type of this plugin"),
    ],
)
def test_what_cannot_go_with_it_is_refused_by_name(top, words):
    entry = {"path": "x", "type": "axolotl_safety.thinksafe"}
    with pytest.raises(ConfigError, match=words):
        prepare_config(DictDefault({"base_model": "m", "datasets": [entry], "safety": {"stop": {}}} | top))


@pytest.mark.parametrize(
    ("stop", "words"),
    [({"refusl": 9}, "did you mean 'refusal'"), ({"prompts": 0}, "stop.prompts"), ({"refusal": 0}, "stop.refusal")],
)
def test_a_wrong_key_is_named(stop, words):
    entry = {"path": "x", "type": "axolotl_safety.thinksafe"}
    with pytest.raises(ConfigError, match=words):
        prepare_config(DictDefault({"base_model": "m", "datasets": [entry], "safety": {"stop": stop}}))


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level(logging.INFO, "axolotl_safety")


def test_the_plan_says_how_often_and_how_much(tmp_path, models):
    from axolotl_safety.commands.plan.figures import Hardware
    from axolotl_safety.commands.plan.load import plan_run
    from axolotl_safety.commands.plan.report import summary

    cfg = config(tmp_path, models("qwen3"), safechain_rows(60), method="thinksafe", stop=STOP | {"every": 20})
    known, unknown = (plan_run(DictDefault(cfg.to_dict() | top), Hardware(()))[0] for top in ({"max_steps": 90}, {}))
    line = (
        "stop: judged on 8 harmful and 8 benign development prompts every 20 steps{}, with at most 8,192 tokens each; "
        "about 15 % of training time at most"
    )
    assert line.format(", so at most 5 times") in summary(known) and line.format("") in summary(unknown)
    assert known.judging.tokens == 16 * 512
