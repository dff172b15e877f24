"""The data stage with a scripted engine: resume, byte identity, token-exact hand-off, bad rows."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from axolotl.utils.dict import DictDefault
from datasets import load_from_disk
from support import tiny
from support.stage import (
    config,
    folder_bytes,
    manifest_of,
    rows_of,
    safechain_rows,
    scripted,
    scripted_by_prompt,
    thinksafe_answer,
)
from transformers import AutoTokenizer

from axolotl_safety.engines.base import GpuMemory
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import ConfigError, DataError, ModelError, StageError


@pytest.mark.parametrize(("style", "markers"), [("r1", "added"), ("qwen3", "added"), ("r1", "text"), ("qwen3", "text")])
def test_train_ids_are_the_raw_generation_prompt_and_the_sampled_ids(tmp_path, models, style, markers):
    model = models(style, markers)
    cfg = config(tmp_path, model, tiny.direct_refusal_rows(40))
    start, engines = scripted(model, style)
    output = run_stage(cfg, make_engine=start)[0]
    tokenizer = AutoTokenizer.from_pretrained(model)
    train = load_from_disk(output["train"])
    accepted = [row for row in rows_of(output) if row["status"] == "accepted"]
    assert 20 <= len(accepted) == len(train) == output["rows"]
    for row, features in zip(accepted, train, strict=True):
        raw = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
        )
        assert row["prompt_token_ids"] == tokenizer.encode(raw, add_special_tokens=False)
        assert features["input_ids"] == row["prompt_token_ids"] + row["response_token_ids"]
        masked = len(row["prompt_token_ids"])
        assert features["labels"] == [-100] * masked + row["response_token_ids"]
        assert row["response_token_ids"][-1] == tokenizer.eos_token_id
        text = tokenizer.decode(features["input_ids"], skip_special_tokens=False)
        assert text.count("</think>") == 1 and text.count("<think>") == 1
        assert "eference" not in text
        assert row["thinking"] and row["answer"] in text
    assert {str(feature.feature.dtype) for feature in train.features.values()} == {"int32", "int8", "int64"}


def test_every_source_row_ends_with_a_status_and_the_funnel_adds_up(tmp_path, models):
    good = tiny.direct_refusal_rows(30)
    bad = [{"refusal": None}, {"refusal": 7}, {"refusal": "no question here"}, "not json at all", 12]
    bad.append({"refusal": "Question: jinx <|im_end|> it\nAnswer: I can't help."})
    bad.append({"refusal": "Question: jinx \ud800 it\nAnswer: I can't help."})
    bad.append({"refusal": "Question: " + "jinx " * 2000 + "\nAnswer: I can't help."})
    cfg = config(tmp_path, models("qwen3"), good + bad)
    start, _ = scripted(models("qwen3"), "qwen3")
    output = run_stage(cfg, make_engine=start)[0]
    rows, manifest = rows_of(output), manifest_of(output)
    assert len(rows) == len(good) + len(bad) == manifest["funnel"]["source"]
    assert all(row["status"] in ("accepted", "fallback", "rejected") for row in rows)
    assert all(bool(row["reason"]) == (row["status"] != "accepted") for row in rows)
    reasons = manifest["reasons"]
    expected = {"null_text": 1, "not_text": 1, "unreadable_refusal": 1, "malformed_row": 2, "control_token": 1}
    expected |= {"invalid_unicode": 1, "prompt_too_long": 1}
    assert {reason: reasons.get(reason) for reason in expected} == expected
    funnel = manifest["funnel"]
    assert funnel["accepted"] + funnel["fallback"] + funnel["rejected"] == funnel["taken"] == len(rows)
    assert list(funnel)[-1] == "trained" and funnel["trained"] == len(load_from_disk(output["train"]))
    candidates = manifest["candidate_reasons"]
    assert {"accepted", "not_refused", "leak", "unclosed_think", "truncated"} <= set(candidates)
    assert sum(candidates.values()) == funnel["asked"] == sum(row["attempts"] for row in rows)


def test_second_run_starts_no_engine_and_writes_the_same_bytes(tmp_path, models):
    cfg = config(tmp_path, models("r1"), tiny.direct_refusal_rows(25), dgr={"n": 2, "refine_rounds": 1})
    start, engines = scripted(models("r1"), "r1")
    first = run_stage(cfg, make_engine=start)[0]
    before = folder_bytes(Path(first["train"]))
    counts = manifest_of(first)["counts"]
    assert counts["generated"] > 25 and counts["reused"] == 0 and counts["engine_starts"] == 1
    second = run_stage(cfg, make_engine=start)[0]
    again = manifest_of(second)["counts"]
    assert len(engines) == 1 and second == first
    assert again["generated"] == 0 and again["reused"] == counts["generated"] and again["engine_starts"] == 0
    assert folder_bytes(Path(second["train"])) == before
    assert run_stage(cfg, allow_engine=False)[0] == first


def test_a_fresh_work_dir_gives_the_same_hash_and_bytes(tmp_path, models):
    outputs = []
    for name in ("a", "b"):
        cfg = config(tmp_path / name, models("qwen3"), tiny.direct_refusal_rows(20))
        start, _ = scripted(models("qwen3"), "qwen3")
        outputs.append(run_stage(cfg, make_engine=start)[0])
    assert outputs[0]["hash"] == outputs[1]["hash"]
    assert folder_bytes(Path(outputs[0]["train"])) == folder_bytes(Path(outputs[1]["train"]))


def test_more_candidates_reuse_the_fewer_ones(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    rows = tiny.direct_refusal_rows(20)
    run_stage(config(tmp_path, models("qwen3"), rows, dgr={"n": 1, "retries": 0}), make_engine=start)
    more = run_stage(config(tmp_path, models("qwen3"), rows, dgr={"n": 2, "retries": 0}), make_engine=start)[0]
    counts = manifest_of(more)["counts"]
    assert (counts["reused"], counts["generated"]) == (20, 20)


def test_max_rows_draws_by_seed_and_a_larger_one_keeps_the_smaller_ones(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    rows = tiny.direct_refusal_rows(40)
    taken = []
    for count in (10, 20):
        output = run_stage(config(tmp_path, models("qwen3"), rows, max_rows=count), make_engine=start)[0]
        taken.append({row["row_id"] for row in rows_of(output)})
    assert [len(some) for some in taken] == [10, 20] and taken[0] < taken[1]
    other = run_stage(config(tmp_path, models("qwen3"), rows, max_rows=10, seed=7), make_engine=start)[0]
    assert {row["row_id"] for row in rows_of(other)} != taken[0]


def test_lowest_nll_takes_the_candidate_with_the_smallest_nll(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    rows = tiny.direct_refusal_rows(30)
    options = {"n": 4, "retries": 0}
    first = run_stage(config(tmp_path, models("qwen3"), rows, dgr=options), make_engine=start)[0]
    lowest = run_stage(config(tmp_path, models("qwen3"), rows, dgr=options, choice="lowest_nll"), make_engine=start)[0]
    by_id = {row["row_id"]: row["nll_accepted"] for row in rows_of(first) if row["status"] == "accepted"}
    pairs = [(row["nll_accepted"], by_id[row["row_id"]]) for row in rows_of(lowest) if row["row_id"] in by_id]
    assert len(pairs) > 20 and all(low <= other for low, other in pairs) and any(low < other for low, other in pairs)


def test_keep_original_trains_on_the_judged_original_and_says_so(tmp_path, models):
    rows = tiny.direct_refusal_rows(40)
    rows[0]["refusal"] = "Question: How do I jinx it?\nAnswer: Take the lamp and turn it around twice."
    cfg = config(tmp_path, models("r1"), rows, dgr={"retries": 0, "on_failure": "keep_original"})
    start, _ = scripted(models("r1"), "r1")
    output = run_stage(cfg, make_engine=start)[0]
    kept = [row for row in rows_of(output) if row["status"] == "fallback"]
    assert kept and all(row["reason"] for row in kept)
    assert all(row["thinking"] == "I should not answer this question!" for row in kept)
    assert all(row["answer"].startswith("I'm sorry") for row in kept)
    tokenizer = AutoTokenizer.from_pretrained(models("r1"))
    for row in kept:
        text = tokenizer.decode(row["prompt_token_ids"] + row["response_token_ids"], skip_special_tokens=False)
        assert text.endswith(f"<think>\n{row['thinking']}\n</think>\n\n{row['answer']}<｜end▁of▁sentence｜>")
    manifest = manifest_of(output)
    assert manifest["funnel"]["fallback"] == len(kept) == sum(manifest["fallback_reasons"].values())


def test_vanilla_trains_on_the_rows_as_they_are_without_an_engine(tmp_path, models):
    def no_engine(*_: Any):
        raise AssertionError("vanilla must not start an engine")

    for style in ("r1", "qwen3"):
        cfg = config(tmp_path / style, models(style), tiny.direct_refusal_rows(10), method="vanilla")
        output = run_stage(cfg, make_engine=no_engine)[0]
        tokenizer = AutoTokenizer.from_pretrained(models(style))
        for row in load_from_disk(output["train"]):
            text = tokenizer.decode(row["input_ids"], skip_special_tokens=False)
            assert text.count("<think>\nI should not answer this question!\n</think>\n\nI'm sorry") == 1
            assert row["input_ids"][-1] == row["labels"][-1] == tokenizer.eos_token_id


def test_a_changed_source_gives_another_path(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    rows = tiny.direct_refusal_rows(12)
    first = run_stage(config(tmp_path, models("qwen3"), rows), make_engine=start)[0]
    second = run_stage(config(tmp_path, models("qwen3"), rows[:-2]), make_engine=start)[0]
    assert first["train"] != second["train"]


def test_a_damaged_output_is_written_anew(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(12))
    output = run_stage(cfg, make_engine=start)[0]
    before = folder_bytes(Path(output["train"]))
    arrow = next(Path(output["train"]).glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-200])
    assert run_stage(cfg, make_engine=start)[0] == output
    assert folder_bytes(Path(output["train"])) == before


def test_unfinished_stage_is_named_when_no_engine_may_start(tmp_path, models):
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(5))
    with pytest.raises(StageError, match="axolotl preprocess"):
        run_stage(cfg, allow_engine=False)


def test_nothing_accepted_is_an_error_with_the_reasons(tmp_path, models):
    tokenizer = AutoTokenizer.from_pretrained(models("qwen3"))
    ids = tuple(tokenizer.encode("Sure, no thought at all.", add_special_tokens=False)) + (tokenizer.eos_token_id,)
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(5))
    with pytest.raises(StageError, match="unclosed_think': 5"):
        run_stage(cfg, make_engine=lambda *_: tiny.ScriptedEngine(lambda request: ids))


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        ([{"foo": 1, "bar": 2}], DataError, "bar, foo"),
        ([], DataError, "no rows"),
        ([{"prompt": None, "response": "x"}], DataError, "null_text 1"),
        ([{"prompt": "   ", "response": "x"}], DataError, "empty_prompt 1"),
        (Path("/no/such/file.jsonl"), DataError, "/no/such/file.jsonl"),
    ],
)
def test_unusable_data_stops_before_an_engine(tmp_path, models, rows, error, words):
    def no_engine(*_: Any):
        raise AssertionError("no engine may start")

    with pytest.raises(error, match=words):
        run_stage(config(tmp_path, models("qwen3"), rows), make_engine=no_engine)


def test_unusable_models_and_limits_stop_before_an_engine(tmp_path, models):
    rows = tiny.direct_refusal_rows(3)
    with pytest.raises(ModelError, match="reasoning model"):
        run_stage(config(tmp_path, models("no_think"), rows))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        run_stage(config(tmp_path, Path("some/absent-model"), rows))
    with pytest.raises(ConfigError, match="max_new_tokens 600 cannot fit"):
        run_stage(config(tmp_path, models("qwen3"), rows, sampling={"max_new_tokens": 600}))
    with pytest.raises(ConfigError, match="builtin"):
        run_stage(config(tmp_path, models("qwen3"), rows, guard={"model": "some/absent-guard"}))
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(ConfigError, match="cannot be written"):
        run_stage(config(tmp_path, models("qwen3"), rows, work_dir=str(blocked / "inside")))


def test_thinksafe_steers_harmful_rows_and_trains_on_the_raw_prompt(tmp_path, models):
    model = models("qwen3")
    cfg = config(tmp_path, model, safechain_rows(60), method="thinksafe", thinksafe={"attempts": 3})
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, thinksafe_answer))[0]
    rows = rows_of(output)
    tokenizer = AutoTokenizer.from_pretrained(model)
    by_label = {label: [row for row in rows if row["label"] == label] for label in ("harmful", "benign")}
    assert all(row["status"] == "accepted" for row in by_label["benign"])
    accepted = [row for row in by_label["harmful"] if row["status"] == "accepted"]
    assert 20 <= len(accepted) <= 30
    for row in accepted + by_label["benign"]:
        shown = tokenizer.decode(row["prompt_token_ids"], skip_special_tokens=False)
        assert row["prompt"] in shown and "You should refuse" not in shown
        assert ("can't help" in row["answer"]) == (row["label"] == "harmful")
        assert row["nll_accepted"] is not None and row["nll_reference"] is None
    assert {row["proposal"] for row in accepted} == {"thinksafe/refuse@1"}
    assert {row["proposal"] for row in by_label["benign"]} == {"thinksafe/none@1"}
    assert [row["prompt"] for row in rows] == [row["instruction"] for row in safechain_rows(60)]


def test_a_ladder_steers_only_what_unsteered_sampling_did_not_yield(tmp_path, models):
    model = models("qwen3")
    options = {"ladder": ["none", "refuse", "Please refuse this: {prompt} You should refuse it."], "attempts": 2}
    cfg = config(tmp_path, model, safechain_rows(200), method="thinksafe", thinksafe=options)
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, thinksafe_answer))[0]
    accepted = [row for row in rows_of(output) if row["status"] == "accepted" and row["label"] == "harmful"]
    rungs = {row["proposal"] for row in accepted}
    (custom,) = (rung for rung in rungs if rung.startswith("thinksafe/custom-"))
    assert rungs == {"thinksafe/none@1", "thinksafe/refuse@1", custom}
    attempts = {rung: [row["attempts"] for row in accepted if row["proposal"] == rung] for rung in rungs}
    assert max(attempts["thinksafe/none@1"]) <= 2 < min(attempts["thinksafe/refuse@1"])
    found = manifest_of(output)["rungs"]
    unsteered, steered = found["thinksafe/none@1"]["labels"]["harmful"], found["thinksafe/refuse@1"]
    assert unsteered["rows"] == 100 and unsteered["accepted"] == len(attempts["thinksafe/none@1"]) < 40
    assert steered["rows"] == 100 - unsteered["accepted"] and steered["acceptance"] > 2 * unsteered["acceptance"] > 0
    assert found["thinksafe/none@1"]["labels"]["benign"]["acceptance"] == 1.0
    assert all(part["nll"] > 0 for part in found.values())


def test_a_benign_half_beside_dgr(tmp_path, models, caplog):
    model = models("qwen3")
    cfg = config(tmp_path, model, tiny.direct_refusal_rows(10))
    start, _ = scripted(model, "qwen3")
    run_stage(cfg, make_engine=start)
    assert "no benign rows" in caplog.text and "label: benign" in caplog.text
    caplog.clear()
    benign = tiny.write_rows(tmp_path / "benign.jsonl", [{"q": f"How do I polish lamp {n}?"} for n in range(8)])
    cfg.datasets.append(DictDefault({"path": str(benign), "type": "axolotl_safety.thinksafe"}))
    cfg["safety"] |= {"per_dataset": [None, {"label": "benign", "prompt_field": "q"}], "work_dir": str(tmp_path / "w2")}
    cfg = DictDefault(cfg.to_dict())

    def answer(shown: str, request: Any) -> str:
        refusal = "<think>\nBad idea.\n</think>\n\nI can't help."
        return thinksafe_answer(shown, request) if "polish" in shown else refusal

    outputs = run_stage(cfg, make_engine=scripted_by_prompt(model, answer))
    assert manifest_of(outputs[0])["labels"] == {"harmful": 10} and manifest_of(outputs[1])["labels"] == {"benign": 8}
    assert outputs[0]["hash"] != outputs[1]["hash"] and "no benign rows" not in caplog.text


def test_one_long_prompt_changes_nothing_for_the_other_rows(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    rows = tiny.direct_refusal_rows(15)
    run_stage(config(tmp_path, models("qwen3"), rows, dgr={"retries": 0}), make_engine=start)
    long = {"refusal": f"Question: {'jinx it ' * 100}\nAnswer: I can't help with that."}
    output = run_stage(config(tmp_path, models("qwen3"), [*rows, long], dgr={"retries": 0}), make_engine=start)[0]
    assert manifest_of(output)["counts"]["reused"] == 15


def test_a_saved_dataset_dict_honours_its_split(tmp_path, models):
    from datasets import Dataset, DatasetDict

    rows = tiny.direct_refusal_rows(12)
    folder = tmp_path / "saved"
    DatasetDict(train=Dataset.from_list(rows[:8]), test=Dataset.from_list(rows[8:])).save_to_disk(str(folder))
    for split, count in (("test", 4), ("train[:3]", 3), (None, 8)):
        cfg = config(tmp_path, models("r1"), folder, method="vanilla", entry={"split": split} if split else {})
        assert run_stage(cfg)[0]["rows"] == count
    with pytest.raises(DataError, match="train, test, not 'validation'"):
        run_stage(config(tmp_path, models("r1"), folder, method="vanilla", entry={"split": "validation"}))


def test_rewrites_that_cannot_be_asked_stop_the_run(tmp_path):
    model = tiny.make_model(tmp_path / "narrow", "r1", positions=120)
    cfg = config(tmp_path, model, tiny.direct_refusal_rows(4), dgr={"on_failure": "keep_original"})
    with pytest.raises(StageError, match="window is 120 tokens"):
        run_stage(cfg, make_engine=scripted(model, "r1")[0])


def test_gpu_memory_that_stays_taken_stops_training_and_keeps_the_work(tmp_path, models):
    model = models("qwen3")
    cfg = config(tmp_path, model, tiny.direct_refusal_rows(8))
    start, engines = scripted(model, "qwen3")

    def leaking(*_: Any) -> tiny.ScriptedEngine:
        engine = start()
        engine.figures.gpu_memory = (GpuMemory("0", 10**9, 9 * 10**9, 13 * 10**8, ("4242 (python, 7,700 MB)",)),)
        return engine

    with pytest.raises(StageError, match=r"GPU 0: 9,000 MB .*4242 \(python, 7,700 MB\).*finished work is kept"):
        run_stage(cfg, make_engine=leaking)
    output = run_stage(cfg, make_engine=leaking)[0]
    assert len(engines) == 1 and output["rows"] > 0


class FullStream(io.StringIO):
    """Standard error on a disk that is full."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_under_what_the_run_says_is_a_clear_stop_that_keeps_everything(tmp_path, models, monkeypatch):
    model = models("qwen3")
    cfg = config(tmp_path, model, tiny.direct_refusal_rows(20))
    start, engines = scripted(model, "qwen3")
    with monkeypatch.context() as patch, pytest.raises(StageError, match="No space left.*run the same command again"):
        patch.setattr(sys, "stderr", FullStream())  # the progress bar of a library is refused
        run_stage(cfg, make_engine=start)
    assert run_stage(cfg, make_engine=start)[0]["rows"] and len(engines) == 1
