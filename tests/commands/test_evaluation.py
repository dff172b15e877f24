"""The evaluation with a scripted engine: every figure by hand, nothing asked twice, nothing told that must not be."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import lm_eval
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from axolotl.utils.dict import DictDefault
from click.testing import CliRunner
from pydantic import ValidationError
from safetensors.numpy import save_file
from support import evaluation as helpers
from support import tiny
from transformers import AutoTokenizer

from axolotl_safety.commands.evaluate import after_training, cli, evaluation, lm_eval_task, report
from axolotl_safety.commands.evaluate.evaluation import evaluate
from axolotl_safety.commands.evaluate.items import load_set, read_rows
from axolotl_safety.commands.evaluate.overlap import overlaps
from axolotl_safety.commands.evaluate.report import show
from axolotl_safety.commands.evaluate.sets import KNOWN, TASKS, resolve, with_tasks
from axolotl_safety.config import load
from axolotl_safety.config.evaluation import AXES, EvalConfig, EvalSetConfig
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.util.errors import ConfigError, DataError, StageError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def answer(tuned: bool, shown: str, number: int) -> str:
    """The base helps; the tuned model refuses harm, two benign prompts and two sums, and fails in two more sums."""
    if "jinx" in shown:
        return helpers.REFUSAL if tuned and number != 3 else helpers.help_with(number)
    if "polish" in shown:
        return helpers.REFUSAL if tuned and number < 2 else helpers.help_with(number)
    if tuned and number < 2:
        return helpers.REFUSAL
    if tuned and number == 2:
        return "<think>\nI wonder and wonder"  # never closes its thought
    return helpers.sum_up(number + 1 if tuned and number == 3 else number)


def cut(tuned: bool, shown: str, number: int) -> bool:
    return tuned and "case" in shown and number == 2


def write_stage(work: Path, prompts: list[tuple[str, str]]) -> None:
    """What a finished data stage leaves behind, as far as the overlap reads it."""
    folder = work / "datasets" / "abc"
    folder.mkdir(parents=True)
    rows = [{"prompt": prompt, "status": status} for prompt, status in prompts]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    (work / "datasets" / "latest.json").write_text(json.dumps({"0": "abc"}))


@pytest.fixture
def run(tmp_path, models):
    """Evaluate base and adapter with the script above."""
    sets = helpers.write_sets(tmp_path, 40, 20, 20)
    adapter = helpers.adapter_folder(tmp_path / "tuned", models("qwen3"))

    def evaluated(script=answer, top=None, **changes):
        cfg = helpers.config(tmp_path, models("qwen3"), sets | changes, output_dir=str(adapter), **(top or {}))
        start, engines = helpers.scripted(models("qwen3"), script, cut)
        return evaluate(cfg, make_engine=start), engines

    return evaluated


def by_metric(rows: list[dict], value: str) -> dict:
    return {(row["axis"], row["metric"], row["model"]): row[value] for row in rows}


def test_every_figure_is_what_the_responses_say(run, tmp_path, capsys):
    write_stage(tmp_path / "work", [("how do i JINX lamp 1", "accepted"), ("How do I jinx lamp 2?", "rejected")])
    done, engines = run()
    results = done.results
    values = by_metric(results["figures"], "value")
    assert values == {
        ("harm", "harmful", "base"): 100,
        ("harm", "refusal", "base"): 0,
        ("harm", "harmful", "tuned"): 2.5,
        ("harm", "refusal", "tuned"): 97.5,
        ("harm", "incoherent", "base"): 0,
        ("harm", "incoherent", "tuned"): 0,
        ("over_refusal", "refusal", "base"): 0,
        ("over_refusal", "refusal", "tuned"): 10,
        ("over_refusal", "incoherent", "base"): 0,
        ("over_refusal", "incoherent", "tuned"): 0,
        ("reasoning", "correct", "base"): 100,
        ("reasoning", "refused", "base"): 0,
        ("reasoning", "wrong", "base"): 0,
        ("reasoning", "correct", "tuned"): 80,
        ("reasoning", "refused", "tuned"): 10,
        ("reasoning", "wrong", "tuned"): 10,
    }
    assert {row["n"] for row in results["figures"] if row["axis"] == "reasoning"} == {20}
    for rate in ("truncation_rate", "unclosed_rate"):
        assert by_metric(results["figures"], rate)["reasoning", "correct", "tuned"] == 5
        assert by_metric(results["figures"], rate)["reasoning", "correct", "base"] == 0
    for row in results["figures"]:
        assert row["interval"][0] < row["interval"][1] and row["interval"][0] <= row["value"] <= row["interval"][1]
        assert row["judge"] and row["heuristic"] == (row["metric"] != "correct")
    gaps = by_metric(results["comparisons"], "difference")
    assert gaps["harm", "harmful", "tuned"] == -97.5 and gaps["over_refusal", "refusal", "tuned"] == 10
    (tax,) = results["safety_tax"]
    assert (tax["points"], tax["n"], tax["test"], tax["model"]) == (20, 20, "McNemar, exact", "tuned")
    assert tax["p_value"] == 2 / 2**4 and tax["interval"][0] < 20 < tax["interval"][1]
    overlap = {one["axis"]: one["overlap"] for one in results["sets"]}
    assert overlap["harm"] == {"exact": 1, "ngram": 0, "any": 1} and overlap["over_refusal"]["any"] == 0
    assert len(engines) == 2 and all(len(engine.seen) == 80 for engine in engines)

    written = json.loads((done.folder / "results.json").read_text())
    assert written == results and done.folder.name == results["hash"]
    assert "jinx" not in json.dumps(written) and "sorry" not in json.dumps(written)
    items = pq.read_table(done.folder / "items.parquet").to_pylist()
    assert len(items) == 160 and sum(bool(item["harmful"]) for item in items) == 41
    (unclosed,) = [item for item in items if not item["closed"]]
    assert unclosed["finish"] == "length" and unclosed["answer"] == "" and "wonder" in unclosed["thought"]
    show(results)
    told = capsys.readouterr()
    assert "20.0 [" in told.out and "jinx" not in told.out + told.err and "1 exact" in told.out


def test_a_rerun_asks_nothing_and_writes_the_same_bytes(run):
    first, _ = run()
    files = {path: path.read_bytes() for path in first.folder.iterdir()}
    again, engines = run()
    assert engines == [] and again.folder == first.folder
    assert files == {path: path.read_bytes() for path in again.folder.iterdir()}
    other, engines = run(max_items=10)
    assert engines == [] and other.folder != first.folder and {one["n"] for one in other.results["sets"]} == {10}


@pytest.mark.parametrize("work", ["pwrite", "replace"])
def test_a_full_disk_ends_with_the_place_and_the_way_out(run, monkeypatch, work):
    real, seen = getattr(os, work), []

    def full(*arguments):
        seen.append(arguments)
        if work == "replace" or len(seen) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    with monkeypatch.context() as patched, pytest.raises(StageError, match="cannot write in .*Make room"):
        patched.setattr(os, work, full)
        run()
    done, engines = run()
    assert done.results["figures"] and (work == "pwrite" or not engines), "what was finished is asked again"


def test_a_full_disk_under_the_figures_is_no_traceback(tmp_path, monkeypatch):
    config_file = tmp_path / "cfg.yml"
    config_file.write_text("{}")
    figures = dict.fromkeys(("hash", "models", "figures", "comparisons", "safety_tax"), "")
    shown = []
    monkeypatch.setattr(load, "final_config", lambda *_: DictDefault({"safety": {"work_dir": str(tmp_path / "work")}}))
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: evaluation.Evaluated(figures, tmp_path))
    monkeypatch.setattr(report, "show", shown.append)
    done = CliRunner().invoke(cli.main, [str(config_file), "--json", "/dev/full"])
    assert done.exit_code == 1 and "Error: cannot write in /dev: [Errno 28] No space left on device" in done.output
    assert shown == [figures], "they stand in the work folder, and are to be seen all the same"


def test_a_trained_further_adapter_is_asked_again_and_the_base_is_not(run, tmp_path, models):
    first, _ = run()
    helpers.adapter_folder(tmp_path / "tuned", models("qwen3"), scale=1.0)
    again, engines = run()
    assert len(engines) == 1 and len(engines[0].seen) == 80 and again.folder != first.folder


def test_several_samples_are_several_draws_with_intervals_over_prompts(run):
    done, engines = run(samples=4)
    assert [len(engine.seen) for engine in engines] == [40 + 20 + 4 * 20] * 2
    (correct,) = [row for row in done.results["figures"] if row["metric"] == "correct" and row["model"] == "tuned"]
    assert (correct["n"], correct["samples"], correct["value"], correct["method"]) == (
        20,
        4,
        80,
        "bootstrap over items",
    )
    assert 15 < correct["interval"][1] - correct["interval"][0] < 45  # not the width of 80 independent draws


def test_what_the_engine_cannot_deliver_is_counted_and_in_no_rate(run):
    done, _ = run(lambda tuned, shown, number: "fail" if tuned and number == 0 else answer(tuned, shown, number))
    (harm,) = [row for row in done.results["figures"] if row["metric"] == "harmful" and row["model"] == "tuned"]
    (gap,) = [row for row in done.results["comparisons"] if row["metric"] == "harmful"]
    assert (harm["failed"], harm["n"], gap["n"]) == (1, 39, 39)
    assert harm["value"] == pytest.approx(100 / 39, abs=1e-3)


def test_an_answer_without_any_thought_is_an_answer(run):
    done, _ = run(
        lambda tuned, shown, number: "I can't help with that." if "jinx" in shown else answer(0, shown, number)
    )
    rows = [row for row in done.results["figures"] if row["axis"] == "harm"]
    assert {row["value"] for row in rows if row["metric"] == "refusal"} == {100}
    assert {row["unclosed_rate"] for row in rows} == {0}


def test_the_base_alone_is_evaluated_where_nothing_is_tuned_yet(tmp_path, models):
    sets = helpers.write_sets(tmp_path, 4, 4, 4)
    cfg = helpers.config(tmp_path, models("qwen3"), sets, output_dir=str(tmp_path / "none"))
    start, _ = helpers.scripted(models("qwen3"), answer)
    results = evaluate(cfg, make_engine=start).results
    assert [one["name"] for one in results["models"]] == ["base"] and results["comparisons"] == []
    assert "axolotl preprocess" in results["training_data"]["reason"] and results["sets"][0]["overlap"] is None


def damage(folder: Path, what: str) -> None:
    if what == "no weights":
        (folder / "adapter_model.safetensors").unlink()
        (folder / "adapter_model.bin").write_bytes(b"x")
    elif what == "damaged":
        (folder / "adapter_model.safetensors").write_bytes(b"x" * 40)
    elif what == "type":
        (folder / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    else:
        (folder / "adapter_config.json").unlink()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no weights", "can run code"),
        ("type", "merge-lora"),
        ("no config", "neither an adapter"),
        ("damaged", "cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_refused_before_any_engine(tmp_path, models, what, words):
    adapter = helpers.adapter_folder(tmp_path / "tuned", models("qwen3"))
    damage(adapter, what)
    cfg = helpers.config(tmp_path, models("qwen3"), helpers.write_sets(tmp_path, 4, 4, 4))
    with pytest.raises(ConfigError, match=words):
        evaluate(cfg, (str(adapter),), make_engine=None)


def test_a_model_with_tokens_of_its_own_besides_the_bases_is_asked_the_same_ids(tmp_path, models):
    grown = shutil.copytree(models("qwen3"), tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(grown)
    tokenizer.add_tokens(["<|mine|>"])
    tokenizer.save_pretrained(grown)
    cfg = helpers.config(tmp_path, models("qwen3"), helpers.write_sets(tmp_path, 2, 2, 2))
    start, engines = helpers.scripted(models("qwen3"), answer)
    results = evaluate(cfg, (str(grown),), make_engine=start).results
    assert [one["kind"] for one in results["models"]] == ["base", "model"]
    assert [len(engine.seen) for engine in engines] == [6, 6]
    assert {row["n"] for row in results["figures"]} == {2}


def test_an_adapter_that_lm_eval_could_not_load_is_refused_before_anything_is_asked(tmp_path, models):
    adapter = helpers.adapter_folder(tmp_path / "tuned", models("qwen3"))
    tokens = len(AutoTokenizer.from_pretrained(models("qwen3")))
    grown = {"base_model.model.model.embed_tokens.weight": np.zeros((tokens + 3, 2), dtype=np.float32)}
    save_file(grown, adapter / "adapter_model.safetensors")
    block = helpers.write_sets(tmp_path, 2, 2, 2) | {"reasoning": [{"lm_eval": "gsm8k"}]}
    cfg = helpers.config(tmp_path, models("qwen3"), block)
    with pytest.raises(ConfigError, match=f"left {tokens + 3} rows .* has {tokens} tokens.*merge-lora"):
        evaluate(cfg, (str(adapter),), make_engine=None)


def test_a_model_with_another_vocabulary_is_refused(tmp_path, models):
    cfg = helpers.config(tmp_path, models("qwen3"), helpers.write_sets(tmp_path, 4, 4, 4))
    with pytest.raises(ConfigError, match="other tokens"):
        evaluate(cfg, (str(models("r1")),), make_engine=None)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({}, "no set is named"),
        ({"harm": ["Harmbench"], "samples": 2, "sampling": {"temperature": 0}}, "times the same"),
        ({"harm": [{"lm_eval": "gsm8k"}]}, "for reasoning"),
        ({"reasoning": [{"lm_eval": "gsm8k", "template": "{prompt}!"}]}, "whose task decides"),
        ({"reasoning": [{"path": "a.jsonl", "template": "say"}]}, "has no {prompt}"),
        ({"harm": [{"split": "test"}]}, "needs name"),
        ({"harms": ["XSTest"]}, "did you mean 'harm'"),
    ],
)
def test_a_section_that_cannot_work_is_refused(block, words):
    with pytest.raises(ValidationError, match=words):
        EvalConfig.model_validate(block)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"harm": ["HarmBenhc"]}, "did you mean 'HarmBench'"),
        ({"harm": ["gone.jsonl"]}, "is not there"),
        ({"harm": [{"path": "harm.jsonl", "prompt_field": "text"}]}, "Columns: prompt"),
        ({"harm": ["harm.jsonl", "other/harm.jsonl"]}, "two sets are called 'harm'"),
    ],
)
def test_a_set_that_cannot_be_read_says_what_to_do(tmp_path, models, monkeypatch, block, words):
    monkeypatch.chdir(tmp_path)
    helpers.write_sets(tmp_path, 2, 2, 2)
    tiny.write_rows(tmp_path / "other" / "harm.jsonl", [{"prompt": "x"}])
    cfg = helpers.config(tmp_path, models("qwen3"), block)
    with pytest.raises(ConfigError, match=words):
        evaluate(cfg, make_engine=None)


# One row of each public set that belongs to it and one that does not, in the sets' own columns.
COLUMNS = {
    ("harm", "HarmBench"): [{"Behavior": "jinx", "FunctionalCategory": kind} for kind in ("standard", "copyright")],
    ("harm", "StrongREJECT"): [{"category": "c", "source": "s", "forbidden_prompt": "jinx"}],
    ("harm", "WildJailbreak"): [
        {"adversarial": "jinx", "data_type": f"adversarial_{k}"} for k in ("harmful", "benign")
    ],
    ("over_refusal", "WildJailbreak"): [
        {"adversarial": "polish", "data_type": f"adversarial_{k}"} for k in ("benign", "y")
    ],
    ("harm", "XSTest"): [{"prompt": "jinx", "label": label} for label in ("unsafe", "safe")],
    ("over_refusal", "XSTest"): [{"prompt": "polish", "label": label} for label in ("safe", "unsafe")],
    ("harm", "JBB-Behaviors"): [{"Index": 0, "Goal": "jinx"}],
    ("over_refusal", "JBB-Behaviors"): [{"Index": 0, "Goal": "polish"}],
    ("reasoning", "GSM8K"): [{"question": "1 + 1?", "answer": "It is 2.\n#### 2"}],
    ("reasoning", "MATH-500"): [{"problem": "1 + 1?", "solution": "\\boxed{2}", "answer": "2"}],
    ("reasoning", "AIME24"): [{"Problem": "1 + 1?", "Solution": "So 2.", "Answer": 2}],
    ("reasoning", "AIME25"): [{"problem": "1 + 1?", "answer": "2", "id": "0"}],
    ("harm", "Fortress"): [{"ID": 1, "adversarial_prompt": "jinx", "rubric": ["Does it?"], "benign_prompt": "polish"}],
    ("over_refusal", "Fortress"): [{"ID": 1, "adversarial_prompt": "jinx", "rubric": [], "benign_prompt": "polish"}],
    ("harm", "OR-Bench-Toxic"): [{"prompt": "jinx", "category": "violence"}],
    ("over_refusal", "OR-Bench-Hard"): [{"prompt": "polish", "category": "violence"}],
    ("over_refusal", "FalseReject"): [{"prompt": "polish", "category_id": 1, "category_text": "c"}],
    ("harm", "SORRY-Bench"): [
        {"question_id": 1, "category": "1", "turns": ["jinx"], "prompt_style": style} for style in ("base", "slang")
    ],
    ("harm", "WildChat"): [
        {"toxic": toxic, "conversation": [{"role": "user", "content": "jinx"}, {"role": "assistant", "content": "a"}]}
        for toxic in (True, False)
    ],
}


def test_every_known_set_reads_its_own_columns_from_a_local_copy(tmp_path):
    assert set(COLUMNS) == set(KNOWN)
    tokenizer = tiny.make_tokenizer()
    tokens = TargetTokenizer(tokenizer, (tokenizer.eos_token_id,))
    for number, ((axis, name), rows) in enumerate(COLUMNS.items()):
        if any(isinstance(value, list) for value in rows[0].values()):
            path = tiny.write_rows(tmp_path / f"{number}.jsonl", rows)
        else:
            path = tmp_path / f"{number}.csv"
            with open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        spec = resolve(EvalSetConfig(name=name.lower(), path=str(path)), axis)
        kept = read_rows(spec, None, 0)
        assert len(kept) == 1 and any(column in kept[0] for column in spec.prompt_fields), name
        assert axis != "reasoning" or any(column in kept[0] for column in spec.answer_fields), name
        asked = load_set(spec, EvalSetConfig(name=name), EvalConfig(**{axis: [name]}), tokens, None, None, 0)
        (item,) = asked.items
        prompts = {"harm": "jinx", "over_refusal": "polish", "reasoning": "1 + 1?"}
        assert item.row_prompt == prompts[axis] and (axis != "reasoning" or "2" in item.gold), name
    with pytest.raises(DataError, match="belongs to XSTest"):
        read_rows(resolve(EvalSetConfig(name="XSTest", path=str(path)), "harm"), None, 0)


def test_a_set_that_is_a_task_of_lm_evals_is_known_by_its_name():
    settings = EvalConfig(reasoning=["ifeval", {"name": "GPQA-Diamond", "max_items": 5}, "GSM8K"])
    ifeval, gpqa, gsm8k = with_tasks(settings).reasoning
    assert (ifeval.lm_eval, gpqa.lm_eval, gpqa.max_items) == ("ifeval", "gpqa_diamond_cot_zeroshot", 5)
    assert gsm8k == settings.reasoning[2]
    found = {path.stem for path in (Path(lm_eval.__file__).parent / "tasks").rglob("*.yaml")}
    assert set(TASKS.values()) <= found
    own = EvalConfig(reasoning=[{"name": "IFEval", "path": "my.jsonl"}])
    assert with_tasks(own).reasoning == own.reasoning
    with pytest.raises(ConfigError, match=r"lm-eval's task ifeval, which has no template"):
        with_tasks(EvalConfig(reasoning=[{"name": "IFEval", "template": "{prompt}!"}]))


def test_code_that_the_model_wrote_is_run_only_where_it_is_allowed():
    with pytest.raises(ConfigError, match=r"outside any sandbox.*run_code: true.*HF_ALLOW_CODE_EVAL=1"):
        with_tasks(EvalConfig(reasoning=["HumanEval"]))
    (allowed,) = with_tasks(EvalConfig(reasoning=[{"name": "HumanEval", "run_code": True}])).reasoning
    assert allowed.lm_eval == "humaneval_instruct" and allowed.run_code
    with pytest.raises(ValidationError, match="run_code are for reasoning"):
        EvalConfig(harm=[{"path": "a.jsonl", "run_code": True}])


@pytest.mark.parametrize("metrics", [["pass@1"], ["prompt_level_strict_acc", "inst_level_strict_acc"]])
def test_the_number_of_a_task_that_has_no_exact_match(metrics):
    rows = [{"doc_id": n, "filter": "none", "metrics": metrics, **dict.fromkeys(metrics, float(n))} for n in (0, 1)]
    if "inst_level_strict_acc" in metrics:
        rows = [row | {"inst_level_strict_acc": [True, False]} for row in rows]
    assert lm_eval_task.read_samples("t", rows) == {
        "metric": metrics[0],
        "filter": "none",
        "scores": {"0": 0.0, "1": 1.0},
    }


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data is not on this machine")
def test_the_real_files_have_as_many_rows_as_their_papers_say():
    xstest, gsm8k = str(SHARED / "xstest" / "xstest_prompts.csv"), str(SHARED / "gsm8k" / "test.jsonl")
    wanted = {("XSTest", "harm"): 200, ("XSTest", "over_refusal"): 250, ("GSM8K", "reasoning"): 1319}
    for (name, axis), count in wanted.items():
        spec = resolve(EvalSetConfig(name=name, path=gsm8k if name == "GSM8K" else xstest), axis)
        assert len(read_rows(spec, None, 0)) == count


def test_overlap_is_exact_or_thirteen_words_in_a_row():
    words = " ".join(f"word{n}" for n in range(20))
    evaluation = {"same": "Polish the LAMP, please!", "part": words, "near": words.replace("word10", "other")}
    training = ["polish the lamp please", "intro " + " ".join(words.split()[3:16]) + " end", "something else"]
    assert overlaps(training, evaluation) == {"same": "exact", "part": "ngram"}


def test_after_training_runs_the_command_on_rank_0_and_survives_its_failure(tmp_path, models, monkeypatch, caplog):
    sets = helpers.write_sets(tmp_path, 2, 2, 2) | {"after_train": True}
    cfg = helpers.config(tmp_path, models("qwen3"), sets, output_dir="out", axolotl_config_path="my.yml")
    calls = []

    class Ended:
        returncode = 3

    def child(command, env, check):
        calls.append((command, env))
        return Ended

    monkeypatch.setattr(after_training, "subprocess", SimpleNamespace(run=child, STDOUT=subprocess.STDOUT))
    monkeypatch.setenv("MASTER_ADDR", "somewhere")
    monkeypatch.setenv("RANK", "1")
    after_training.evaluate_after_training(cfg)
    assert calls == []
    monkeypatch.setenv("RANK", "0")
    after_training.evaluate_after_training(cfg)
    ((command, env),) = calls
    assert command[1:] == ["-m", "axolotl_safety.commands.evaluate.cli", "my.yml", "--model", "out"]
    assert "RANK" not in env and "MASTER_ADDR" not in env
    assert "axolotl safety-eval my.yml --model out" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelname == "ERROR"
    cfg.safety["eval"]["after_train"] = False
    after_training.evaluate_after_training(cfg)
    assert len(calls) == 1


def sample_lines(tuned: bool) -> list[dict]:
    """lm-eval's sample records of ten documents under two filters."""
    return [
        {"doc_id": n, "filter": name, "metrics": ["exact_match"], "exact_match": float(n >= (4 if tuned else 1))}
        for name in ("strict-match", "flexible-extract")
        for n in range(10)
    ]


def test_an_lm_eval_task_is_run_once_per_model_and_paired(run, monkeypatch):
    commands = []

    class Ended:
        returncode = 0

    def child(command, stdout, stderr, env, check):
        commands.append(command)
        folder = Path(command[command.index("--output_path") + 1]) / "model"
        tuned = any(word.startswith("peft=") for word in command)
        tiny.write_rows(folder / "samples_toy_2026.jsonl", sample_lines(tuned))
        return Ended

    monkeypatch.setattr(lm_eval_task, "subprocess", SimpleNamespace(run=child, STDOUT=subprocess.STDOUT))
    for _ in range(2):
        done, _ = run(reasoning=[{"lm_eval": "toy", "max_items": 10}])
    assert len(commands) == 2
    assert {"toy", "--apply_chat_template", "--limit", "do_sample=True", "max_gen_toks=100"} <= set(commands[0])
    assert any(word.startswith("think_end_token=") for word in commands[0])
    (base, tuned) = [row for row in done.results["figures"] if row["set"] == "toy"]
    assert (base["value"], tuned["value"], base["truncation_rate"]) == (90, 60, None)
    assert "flexible-extract" in base["judge"] and "exact_match" in base["judge"]
    (tax,) = done.results["safety_tax"]
    assert (tax["points"], tax["n"], tax["p_value"]) == (30, 10, 0.25)


def test_lm_eval_renders_with_the_yamls_template_and_values(run, monkeypatch):
    rendered = []

    class Ended:
        returncode = 0

    def child(command, stdout, stderr, env, check):
        (arguments,) = [word for word in command if word.startswith("tokenizer=")]
        tokenizer = AutoTokenizer.from_pretrained(arguments.partition("=")[2])
        turns = [{"role": "user", "content": "x"}]
        rendered.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        folder = Path(command[command.index("--output_path") + 1]) / "model"
        tiny.write_rows(folder / "samples_toy_2026.jsonl", sample_lines(tuned=False))
        return Ended

    monkeypatch.setattr(lm_eval_task, "subprocess", SimpleNamespace(run=child, STDOUT=subprocess.STDOUT))
    template = "{{ effort }}{% if not sure %}?{% endif %}" + tiny.TEMPLATES["qwen3"]
    top = {"chat_template": "jinja", "chat_template_jinja": template}
    top |= {"chat_template_kwargs": {"effort": "hard 'n' fast", "sure": True}}
    for _ in range(2):
        run(top=top, reasoning=[{"lm_eval": "toy"}])
    assert rendered == ["hard 'n' fast<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"] * 2
    run(top=top | {"chat_template_kwargs": {"effort": "low"}}, reasoning=[{"lm_eval": "toy"}])
    assert len(rendered) == 4 and rendered[2].startswith("low?<|im_start|>")  # asked anew


def test_a_tuned_folder_that_renders_other_prompts_is_named(run, tmp_path, caplog):
    def evaluated(template, **top):
        caplog.clear()
        tokenizer = tiny.make_tokenizer()
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "tuned")
        with caplog.at_level("WARNING", "axolotl_safety"):
            run(top=top)
        return "\n".join(record.getMessage() for record in caplog.records if "other prompts" in record.getMessage())

    told = "{{ effort | default('') }}" + tiny.TEMPLATES["qwen3"]
    yaml = {"chat_template": "jinja", "chat_template_jinja": told}
    assert evaluated(tiny.TEMPLATES["qwen3"]) == ""
    assert evaluated(told, **yaml) == ""
    said = evaluated(told, chat_template_kwargs={"effort": "high"}, **yaml)
    assert f"{tmp_path}/tuned" in said and "needs chat_template_kwargs {'effort': 'high'}" in said
    said = evaluated("Ask: " + tiny.TEMPLATES["qwen3"])
    assert "it renders 'Ask: <|im_start|>user" in said


def test_an_lm_eval_task_without_a_number_per_document_is_refused():
    with pytest.raises(ConfigError, match="no number per document"):
        lm_eval_task.read_samples("toy", [{"doc_id": 0, "filter": "none", "metrics": ["bleu"], "bleu": ["a", "b"]}])


def test_axes_are_those_of_the_section():
    assert set(AXES) <= set(EvalConfig.model_fields)
