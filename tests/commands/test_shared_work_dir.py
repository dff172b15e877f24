"""Several YAMLs with one work folder: each command finds its own run there, or says that there is none."""

from __future__ import annotations

import json

import pytest
from axolotl.utils.dict import DictDefault
from support import evaluation as helpers
from support import tiny
from support.stage import config, scripted

from axolotl_safety.commands.evaluate.evaluation import evaluate
from axolotl_safety.commands.evaluate.overlap import training_prompts
from axolotl_safety.commands.report.page import write_report
from axolotl_safety.commands.report.reading import read_stage
from axolotl_safety.config.validate import prepare_config
from axolotl_safety.pipeline.identity import run_of
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import StageError


def stage(tmp_path, model, name, count, **safety):
    """A YAML of its own rows in the work folder that all share."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    cfg = config(folder, model, tiny.direct_refusal_rows(count), **safety | {"work_dir": str(tmp_path / "work")})
    return cfg


def test_each_yaml_is_reported_and_compared_with_its_own_run(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    work = tmp_path / "work"
    first, second, third = (stage(tmp_path, models("qwen3"), name, n) for name, n in (("a", 4), ("b", 7), ("c", 3)))
    for cfg in (first, second):
        run_stage(cfg, make_engine=start)
    for cfg, rows in ((first, 4), (second, 7)):
        prompts, about = training_prompts(cfg, work, run_of(cfg))
        assert len(prompts) == about["rows"] == rows
        (entry,) = read_stage(work, run_of(cfg)).entries
        assert len(entry.rows) == rows
    (entry,) = read_stage(work).entries  # whoever was last
    assert len(entry.rows) == 7
    prompts, about = training_prompts(third, work, run_of(third))
    assert prompts is None and "of this YAML" in about["reason"]
    with pytest.raises(StageError, match="no finished data stage"):
        write_report(work, run=run_of(third))


def test_each_yaml_is_reported_with_its_own_evaluation(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    base, work = models("qwen3"), tmp_path / "work"
    harm = tiny.write_rows(tmp_path / "harm.jsonl", [{"prompt": f"How do I jinx lamp {n}?"} for n in range(6)])
    runs = []
    for name, rows, asked in (("a", 4, 6), ("b", 7, 2)):
        block = {"harm": [{"path": str(harm), "max_items": asked}], "sampling": {"max_new_tokens": 50}}
        cfg = stage(tmp_path, base, name, rows, eval=block)
        run_stage(cfg, make_engine=start)
        engine, _ = helpers.scripted(base, lambda tuned, shown, number: helpers.REFUSAL)
        evaluate(cfg, make_engine=engine)
        runs.append(run_of(cfg))
    counts = [{score["n"] for score in read_stage(work, run).evaluation.scores} for run in runs]
    assert counts == [{6}, {2}]
    other = stage(tmp_path, base, "c", 3)
    run_stage(other, make_engine=start)
    assert read_stage(work, run_of(other)).evaluation is None


def test_what_makes_no_other_dataset_makes_no_other_run(tmp_path, models):
    def run(entry=(), **safety):
        raw = stage(tmp_path, models("qwen3"), "a", 3).to_dict()
        raw["safety"] |= safety
        raw["datasets"][0] |= dict(entry)
        cfg = DictDefault(raw)
        prepare_config(cfg)
        return run_of(cfg)

    same = run()
    neutral = [
        {"max_hours": 3},
        {"eval": {"harm": ["XSTest"]}},
        {"command_line": ["--output-dir=x"]},
        {"engine": {"batch_size": 5}},
    ]
    assert {run(**one) for one in neutral} == {same}
    other = [{"seed": 3}, {"max_rows": 2}, {"engine": {"dtype": "bfloat16"}}, {"guard": {"model": "some/guard"}}]
    assert len({same, run({"split": "train[:2]"}), *(run(**one) for one in other)}) == 6


def test_a_folder_of_an_earlier_version_is_read_as_before(tmp_path, models):
    start, _ = scripted(models("qwen3"), "qwen3")
    cfg = stage(tmp_path, models("qwen3"), "a", 4)
    run_stage(cfg, make_engine=start)
    datasets = tmp_path / "work" / "datasets"
    assert json.loads((datasets / f"latest-{run_of(cfg)}.json").read_text()) == json.loads(
        (datasets / "latest.json").read_text()
    )
    (datasets / f"latest-{run_of(cfg)}.json").unlink()
    assert training_prompts(cfg, tmp_path / "work", run_of(cfg))[1]["rows"] == 4
