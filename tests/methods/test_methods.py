"""Prompt `auto`, `on_failure: steer`, sampling presets: what the methods do around their own loop."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from support import tiny
from support.stage import config, manifest_of, rows_of, safechain_rows, scripted_by_prompt, thinksafe_answer
from transformers import AutoTokenizer

from axolotl_safety.config import SafetyConfig
from axolotl_safety.config.prompts import REWRITE_PROMPTS, STEERING_PROMPTS
from axolotl_safety.methods.auto_prompt import Probe, rank
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import ConfigError, DataError

RISK = "potential risks"


def prefers_risk(shown: str, request: Any) -> str:
    """Refuses harm nine times in ten under the risk prompt, three times in ten under any other steering."""
    number = tiny.draw(request.request_id, 1000)
    thought = f"<think>\nThey ask for something, case {number}.\n</think>\n\n"
    if "jinx" in shown and number % 10 < (9 if RISK in shown else 3):
        return thought + f"I can't help with that, case {number}."
    return thought + f"Take a soft cloth and rub it, case {number}."


@pytest.mark.parametrize("block", [{"prompt": "auto"}, {"ladder": ["auto"]}])
def test_auto_probes_the_named_prompts_and_climbs_the_best(tmp_path, models, block):
    model = models("qwen3")
    cfg = config(tmp_path, model, safechain_rows(80), method="thinksafe", thinksafe={**block, "probe_rows": 20})
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, prefers_risk))[0]
    manifest = manifest_of(output)
    probes = manifest["auto"]["thinksafe"]
    assert set(probes) == set(STEERING_PROMPTS) - {"none"}
    assert probes["risk"]["accepted"] > 2 * probes["refuse"]["accepted"] and probes["risk"]["rows"] == 20
    harmful = [row for row in rows_of(output) if row["label"] == "harmful"]
    assert {row["proposal"] for row in harmful} == {"thinksafe/risk@1"}
    # The winner's probes are its first candidates: asked once.
    assert manifest["counts"]["generated"] == len({r for row in rows_of(output) for r in row["request_ids"]})


def test_auto_beside_a_named_rung_tries_the_others(tmp_path, models):
    model = models("qwen3")
    cfg = config(tmp_path, model, safechain_rows(20), method="thinksafe", thinksafe={"ladder": ["risk", "auto"]})
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, prefers_risk))[0]
    assert "risk" not in manifest_of(output)["auto"]["thinksafe"]


def test_auto_for_rewrites(tmp_path, models):
    model = models("qwen3")

    def answer(shown: str, request: Any) -> str:
        number = tiny.draw(request.request_id, 1000)
        thought = f"<think>\nIt would hurt the lamp, case {number}.\n</think>\n\n"
        sound = "could do harm" in shown or number % 10 < 2
        return thought + (f"I can't help, case {number}." if sound else f"Take a cloth, case {number}.")

    cfg = config(tmp_path, model, tiny.direct_refusal_rows(30), dgr={"prompt": "auto", "probe_rows": 12})
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, answer))[0]
    assert set(manifest_of(output)["auto"]["dgr"]) == set(REWRITE_PROMPTS)
    assert {row["proposal"] for row in rows_of(output)} == {"dgr/structured@1"}


def test_rank_prefers_little_distortion_among_prompts_that_work_equally_well():
    probes = {"far": Probe(32, 30, 0.5), "near": Probe(32, 29, 0.1), "weak": Probe(32, 10, 0.0)}
    assert rank(probes) == "near"
    assert rank({"a": Probe(32, 0, None), "b": Probe(32, 0, None)}) == "a"
    assert rank({"a": Probe(0, 0, None), "b": Probe(0, 0, None)}) == "a"


def test_steer_answers_what_could_not_be_rewritten(tmp_path, models):
    model = models("qwen3")

    def answer(shown: str, request: Any) -> str:
        number = tiny.draw(request.request_id, 1000)
        rewriting = "reference response" in shown.lower()
        lamp = "marsh lamp" in shown  # one row in five can never be rewritten
        thought = f"<think>\nThat is no good idea, case {number}.\n</think>\n\n"
        return thought + (f"Take a cloth, case {number}." if rewriting and lamp else f"I can't help, case {number}.")

    rows = tiny.direct_refusal_rows(20)
    cfg = config(tmp_path, model, rows, dgr={"on_failure": "steer", "retries": 1})
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, answer))[0]
    manifest = manifest_of(output)
    found = rows_of(output)
    assert [row["status"] for row in found] == ["accepted"] * 20
    steered = [row for row in found if row["proposal"] == "thinksafe/refuse@1"]
    assert len(steered) == 4 and all("marsh lamp" in row["prompt"] for row in steered)
    for row in steered:
        assert row["candidate_proposals"] == ["dgr/rewrite@1"] * 2 + ["thinksafe/refuse@1"]
        assert row["candidate_reasons"] == ["not_refused", "not_refused", ""] and row["attempts"] == 3
        assert row["nll_reference"] is not None and row["nll_accepted"] is not None
    assert manifest["rungs"]["dgr/rewrite@1"]["accepted"] == 16
    assert manifest["rungs"]["thinksafe/refuse@1"]["acceptance"] == 1.0
    assert manifest["thinksafe"]["ladder"] == ["refuse"] and "thinksafe" in manifest["sampling"]


def test_a_row_that_even_steering_cannot_save_is_rejected(tmp_path, models):
    model = models("qwen3")

    def answer(shown: str, request: Any) -> str:
        thought = "<think>\nWell.\n</think>\n\n"
        return thought + ("Take a cloth." if "marsh lamp" in shown else "I can't help with that.")

    cfg = config(tmp_path, model, tiny.direct_refusal_rows(10), dgr={"on_failure": "steer"})
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, answer))[0]
    lost = [row for row in rows_of(output) if row["status"] == "rejected"]
    assert len(lost) == 2 and all(row["reason"] == "not_refused" and row["attempts"] == 6 for row in lost)


@pytest.mark.parametrize(("style", "top_k"), [("qwen3", 20), ("r1", 0)])
def test_sampling_presets_follow_the_model_family(tmp_path, models, style, top_k):
    model = models(style)
    safety = {"method": "thinksafe", "sampling": {"max_new_tokens": 100}}
    thought = "" if style == "r1" else "<think>\n"

    def answer(shown: str, request: Any) -> str:
        said = thinksafe_answer(shown, request)
        return said.replace("<think>\n", thought)

    output = run_stage(
        config(tmp_path, model, safechain_rows(20), **safety), make_engine=scripted_by_prompt(model, answer)
    )[0]
    expected = {"temperature": 0.6, "top_p": 0.95, "top_k": top_k, "max_new_tokens": 100}
    assert manifest_of(output)["sampling"]["thinksafe"] == expected


@pytest.mark.parametrize(
    "block",
    [
        {"prompt": "refuse", "ladder": ["none"]},
        {"ladder": ["auto", "auto"]},
        {"prompt": "riks"},
        {"probe_rows": 1},
    ],
)
def test_thinksafe_blocks_that_contradict_themselves(block):
    with pytest.raises(ValueError, match=r"two answers|only once|no prompt is named|greater than or equal"):
        SafetyConfig.model_validate({"thinksafe": block})
    assert SafetyConfig.model_validate({"thinksafe": {"prompt": "risk"}}).thinksafe.ladder == ("risk",)


def test_only_takes_the_rows_of_one_label(tmp_path, models):
    model = models("qwen3")
    entry = {"safety": {"only": "benign", "max_rows": 6}}
    cfg = config(tmp_path, model, safechain_rows(40), method="thinksafe", entry=entry)
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, thinksafe_answer))[0]
    rows = rows_of(output)
    assert len(rows) == 6 and {row["label"] for row in rows} == {"benign"}
    assert all("polish" in row["prompt"] for row in rows)
    harmful = [row for row in safechain_rows(10) if row["label"] == "vanilla_harmful"]
    other = config(tmp_path, model, harmful, method="thinksafe", entry={"safety": {"only": "benign"}})
    with pytest.raises(DataError, match="only benign was asked for"):
        run_stage(other)
    with pytest.raises(ConfigError, match="chooses nothing"):
        config(tmp_path, model, harmful, entry={"safety": {"only": "benign", "label": "harmful"}})


@pytest.mark.parametrize(("options", "words"), [({}, "label: harmful"), ({"label": "benign"}, "response_field")])
def test_prompts_alone_say_what_is_missing(tmp_path, models, options, words):
    method = "dgr" if options else "thinksafe"
    cfg = config(tmp_path, models("qwen3"), [{"prompt": "q"}], method=method, entry={"safety": options})
    with pytest.raises(DataError, match=words):
        run_stage(cfg)


def test_a_conversation_keeps_its_history_in_every_prompt(tmp_path, models):
    model = models("qwen3")
    history = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A helper."}]
    rows = [
        {"messages": [*history, {"role": "user", "content": row["instruction"]}]} for row in safechain_rows(20)[1::2]
    ]
    shown_prompts = []

    def answer(shown: str, request: Any) -> str:
        shown_prompts.append(shown)
        return "<think>\nNo good.\n</think>\n\nI can't help with that."

    cfg = config(tmp_path, model, rows, method="thinksafe", entry={"safety": {"label": "harmful"}})
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, answer))[0]
    assert all("Who are you?" in shown and "You should refuse" in shown for shown in shown_prompts)
    tokenizer = AutoTokenizer.from_pretrained(model)
    for row in rows_of(output):
        trained = tokenizer.decode(row["prompt_token_ids"], skip_special_tokens=False)
        assert trained.index("Who are you?") < trained.index("A helper.") < trained.index(row["prompt"])
        assert "You should refuse" not in trained


def test_a_template_that_takes_no_system_turn_rejects_the_row(tmp_path, models):
    model = tmp_path / "strict"
    shutil.copytree(models("qwen3"), model)
    template = (model / "chat_template.jinja").read_text()
    guard = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    (model / "chat_template.jinja").write_text(guard + template)
    system = {"role": "system", "content": "Be kind."}
    rows = [{"messages": [*([system] if n % 2 else []), {"role": "user", "content": f"polish {n}?"}]} for n in range(6)]
    cfg = config(tmp_path, model, rows, method="thinksafe", entry={"safety": {"label": "benign"}})
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, thinksafe_answer))[0]
    assert [row["reason"] for row in rows_of(output)] == [None, "template_refuses"] * 3
