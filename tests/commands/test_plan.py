"""The plan of a stage: what it says is left is what the stage then asks; what cannot run stops before the engine."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import pytest
from axolotl.utils.dict import DictDefault
from click.testing import CliRunner
from rich.console import Console
from support import tiny
from support.guard_stage import guard_folder
from support.stage import config, safechain_rows, scripted, scripted_by_prompt, thinksafe_answer

from axolotl_safety.commands.plan import cli, gate, load, machine, report
from axolotl_safety.commands.plan.cards import CARDS, Card
from axolotl_safety.commands.plan.figures import Hardware
from axolotl_safety.commands.plan.plan import make_plan
from axolotl_safety.commands.plan.report import as_json, duration, show, show_trial, summary, trial_json, verdict
from axolotl_safety.commands.plan.requests import Walk, Wanted, attempts, walk
from axolotl_safety.commands.plan.shift import measure_shift
from axolotl_safety.commands.plan.trial import spread, try_rows
from axolotl_safety.config.section import section
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.queue import Purpose
from axolotl_safety.pipeline.inputs import stage_inputs
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import ConfigError, StageError
from axolotl_safety.util.terminal import visible

CPU = Hardware(())
CARD = Hardware((CARDS["rtx4090"],))


def plan_of(cfg, place=CPU, sample=None):
    prepared = stage_inputs(cfg, section(cfg))
    return make_plan(cfg, prepared, prepared.open_journals(read_only=True), place, sample)


def test_a_fresh_plan_counts_what_the_stage_asks_first(tmp_path, models):
    model = models("qwen3")
    cfg = config(tmp_path, model, tiny.direct_refusal_rows(20), dgr={"retries": 0, "n": 2})
    plan = plan_of(cfg)
    assert not (tmp_path / "work" / "journal").exists()  # a plan writes nothing
    (entry,) = plan.load.entries
    assert entry.rows == {"harmful": 20} and entry.expected == 40 and entry.held == 0
    start, engines = scripted(model, "qwen3")
    run_stage(cfg, make_engine=start)
    rewrites = next(phase for phase in plan.load.phases if phase.title == "dgr/rewrite@1, attempt 1")
    journal = stage_inputs(cfg, section(cfg)).open_journals(read_only=True)["target"]
    asked = [key for key in journal.keys() if key[0] == "completion"]
    assert rewrites.requests == len(asked) == 40
    scores = [phase for phase in plan.load.phases if phase.title == "scores"]
    assert scores[0].requests == pytest.approx(20 + 40 * 0.7)  # every reference, and the accepted candidates


def test_a_finished_stage_has_nothing_left(tmp_path, models):
    model = models("qwen3")
    cfg = config(tmp_path, model, safechain_rows(24), method="thinksafe", thinksafe={"ladder": ["none", "refuse"]})
    before = plan_of(cfg)
    run_stage(cfg, make_engine=scripted_by_prompt(model, thinksafe_answer))
    after = plan_of(cfg)
    assert before.load.requests > 24 and after.load.requests == 0
    (entry,) = after.load.entries
    assert entry.expected == 0 and entry.held >= 24 and entry.finished == entry.accepted
    assert after.can_run and "nothing left to ask" in verdict(after)


def test_a_resumed_stage_counts_only_what_is_left(tmp_path, models):
    model = models("qwen3")
    start, _ = scripted(model, "qwen3")
    rows = tiny.direct_refusal_rows(30)
    run_stage(config(tmp_path, model, rows, max_rows=12, dgr={"retries": 0}), make_engine=start)
    plan = plan_of(config(tmp_path, model, rows, dgr={"retries": 0}))
    (entry,) = plan.load.entries
    assert (entry.held, entry.expected) == (12, 18)
    # The guess of 70 % and 400 tokens has moved towards the twelve that are known.
    assert plan.load.lengths["dgr, harmful"] < 200
    assert plan.load.acceptance["dgr, harmful"] != 0.7


def test_a_sample_stands_for_all_rows(tmp_path, models):
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(40))
    whole, part = plan_of(cfg), plan_of(cfg, sample=10)
    assert part.load.requests == pytest.approx(whole.load.requests, rel=0.02)
    written = [sum(phase.new_tokens for phase in plan.load.phases) for plan in (whole, part)]
    assert written[1] == pytest.approx(written[0], rel=0.05)


def wanted(row: str, number: int, kind: str = "completion", purpose: str = "attempt") -> Wanted:
    return Wanted(kind, Purpose(purpose, "dgr/rewrite@1", number), "target", row, 10, 100)


def test_a_further_attempt_counts_with_the_chance_that_it_is_needed():
    found = Walk(
        wanted=[
            *(wanted("a", 0) for _ in range(2)),
            wanted("a", 1),
            wanted("b", 1),
            wanted("b", 2),
            wanted("", 0, "verdict", "original"),
            wanted("", 0, "verdict", ""),
        ]
    )
    weights, left = attempts(found, lambda one: 0.5)
    # Row a's two candidates are asked together; its retry only if both fail. Row b's first attempt failed before.
    assert weights[:5] == [1.0, 1.0, 0.25, 1.0, 0.5]
    assert left == {(0, "a"): 0.125, (0, "b"): 0.25}
    assert weights[5:] == [(0.125 + 0.25) / 2, 1.0]


def test_the_expected_number_of_retries_adds_up(tmp_path, models):
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(10), dgr={"retries": 2})
    (entry,) = plan_of(cfg).load.entries
    assert entry.expected == pytest.approx(10 * (1 + 0.3 + 0.09))
    assert entry.accepted == pytest.approx(10 * (1 - 0.3**3))


def test_a_plan_reads_a_journal_that_is_being_written(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append("completion", "a", {"token_ids": [1]})
    torn = b'{"kind":"completion","request_id":"b","tok'
    path.write_bytes(path.read_bytes() + torn)
    with Journal(path, read_only=True) as journal:
        assert ("completion", "a") in journal and len(journal) == 1
    assert path.read_bytes().endswith(torn)  # its writer will finish it
    with Journal(tmp_path / "absent.jsonl", read_only=True) as journal:
        assert len(journal) == 0
    assert not (tmp_path / "absent.jsonl").exists()


def small_card(gigabytes: float) -> Hardware:
    return Hardware((replace(CARDS["rtx4090"], name="toy", memory_bytes=int(gigabytes * 1e9)),))


def test_what_does_not_fit_says_so_with_figures_and_ways_out(tmp_path, models):
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(5), engine={"backend": "transformers"})
    tight = plan_of(cfg, small_card(0.4))
    assert not tight.can_run and not tight.engine.fits
    problem = tight.findings.problems[0]
    assert "generation does not fit toy" in problem and "0.4 GB" in problem and "quantization: bitsandbytes" in problem
    assert "sampling.max_new_tokens below 4096" in problem
    assert any("training does not fit toy" in one for one in tight.findings.problems)
    roomy = plan_of(cfg, CARD)
    assert roomy.can_run and roomy.engine.fits and roomy.seconds["middle"] > 0


def test_a_card_without_figures_is_no_reason_to_stop(tmp_path, models):
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(5), max_hours=1)
    plan = plan_of(cfg, Hardware((Card("NVIDIA Unheard-of", 24 << 30),)))
    assert plan.can_run and plan.hours is None
    assert any("max_hours 1 is not checked" in warning for warning in plan.findings.warnings)


def test_the_gate_stops_a_run_before_its_engine(tmp_path, models, monkeypatch):
    rows = tiny.direct_refusal_rows(5)
    never = lambda *_: pytest.fail("an engine was started")  # noqa: E731
    monkeypatch.setattr(gate, "machine_cards", lambda: list(small_card(0.4).cards))
    with pytest.raises(ConfigError, match="generation does not fit toy"):
        run_stage(config(tmp_path, models("qwen3"), rows), make_engine=never, gate=gate.check_plan)
    monkeypatch.setattr(gate, "machine_cards", lambda: [CARDS["rtx4090"]])
    with pytest.raises(ConfigError, match=r"safety\.max_hours is 1e-06"):
        run_stage(config(tmp_path, models("qwen3"), rows, max_hours=1e-6), make_engine=never, gate=gate.check_plan)


def test_the_gate_is_not_asked_when_nothing_is_left(tmp_path, models, monkeypatch):
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(5))
    start, engines = scripted(models("qwen3"), "qwen3")
    first = run_stage(cfg, make_engine=start, gate=gate.check_plan)
    monkeypatch.setattr(gate, "machine_cards", lambda: pytest.fail("the gate was asked"))
    assert run_stage(cfg, make_engine=start, gate=gate.check_plan) == first and len(engines) == 1


def test_a_long_run_is_warned_of_only_without_a_limit(tmp_path, models, caplog, monkeypatch):
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(5))
    plan = plan_of(cfg, CARD)
    slow = Hardware((replace(CARDS["rtx4090"], bandwidth=1e3, flops=1e6),))
    assert not [one for one in plan.findings.warnings if "hours" in one]
    assert [one for one in plan_of(cfg, slow).findings.warnings if "safety.max_hours" in one]
    allowed = plan_of(config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(5), max_hours=1e9), slow)
    assert allowed.can_run and not [one for one in allowed.findings.warnings if "hours" in one]


def test_report_and_json_say_the_same(tmp_path, models):
    rows = tmp_path / "[red]rows[/red].jsonl"  # a name that rich would take for markup
    cfg = config(tmp_path, models("qwen3"), tiny.write_rows(rows, tiny.direct_refusal_rows(5)))
    plan = plan_of(cfg, CARD)
    found = {"versions": {"axolotl": "0"}, "access": {}}
    console = Console(width=300, record=True, file=open("/dev/null", "w"))
    show(console, plan, found)
    text = console.export_text()
    assert "[red]rows[/red].jsonl" in text and all(line in text for line in summary(plan)) and verdict(plan) in text
    values = json.loads(json.dumps(as_json(plan, found)))
    assert values["can_run"] is True and values["workload"]["requests"] == plan.load.requests
    assert values["engine"]["fits"] is True and values["summary"] == summary(plan)


def test_tried_rows_are_the_real_runs_rows(tmp_path, models):
    model = models("qwen3")
    cfg = config(tmp_path, model, safechain_rows(20), method="thinksafe")
    prepared = stage_inputs(cfg, section(cfg))
    start = scripted_by_prompt(model, thinksafe_answer)
    trial = try_rows(cfg, prepared, plan_of(cfg), 6, make_engine=start)
    assert sorted(outcome.label for outcome in trial.outcomes) == ["benign"] * 3 + ["harmful"] * 3
    assert trial.made >= 6 and trial.seconds > 0 and trial.seconds_left is not None
    assert trial.plan.load.entries[0].held == trial.made
    again = try_rows(cfg, prepared, plan_of(cfg), 6, make_engine=lambda *_: pytest.fail("asked again"))
    assert again.made == 0 and again.seconds_left is None and again.outcomes == trial.outcomes
    engine = start()
    output = run_stage(cfg, make_engine=lambda *_: engine)[0]
    journal = prepared.open_journals(read_only=True)["target"]
    whole = sum(kind == "completion" for kind, _ in journal.keys())
    made = len([one for one in engine.seen if ("completion", one) in journal])
    assert made == whole - trial.made and output["rows"] > 0


def test_a_trial_takes_turns_among_entries_and_labels(tmp_path, models):
    rows = tiny.write_rows(tmp_path / "direct.jsonl", tiny.direct_refusal_rows(10))
    cfg = config(tmp_path, models("qwen3"), safechain_rows(10), method="thinksafe")
    cfg.datasets.append({"path": str(rows), "type": "axolotl_safety.dgr"})
    cfg = DictDefault(cfg.to_dict())
    few = spread(stage_inputs(cfg, section(cfg)), 8)
    counts = [[task.label for task in entry.tasks] for entry in few.entries]
    assert sorted(counts[0]) == ["benign"] * 3 + ["harmful"] * 3 and counts[1] == ["harmful"] * 2


@pytest.mark.parametrize("method", ["dgr", "thinksafe"])
def test_rows_that_nobody_labels_are_planned_and_tried(tmp_path, models, method):
    model = models("qwen3")
    rows = [{"prompt": f"How do I polish lamp {n}?", "response": f"Take cloth {n}."} for n in range(6)]
    entry = {"safety": {"label": "any"}} if method == "thinksafe" else {}
    cfg = config(tmp_path, model, rows, method=method, entry=entry, dgr={"on_failure": "steer"})
    plan = plan_of(cfg)
    assert plan.load.entries[0].rows == {"any": 6} and plan.load.acceptance[f"{method}, any"] == 0.7
    console = Console(width=300, record=True, file=open("/dev/null", "w"))
    show(console, plan, {"versions": {"axolotl": "0"}, "access": {}})
    assert "no label" in console.export_text()
    start = scripted_by_prompt(model, thinksafe_answer)
    trial = try_rows(cfg, stage_inputs(cfg, section(cfg)), plan, 4, make_engine=start)
    assert [outcome.label for outcome in trial.outcomes] == ["any"] * 4


@pytest.mark.parametrize("what", ["try", "measure-shift"])
def test_a_full_disk_ends_a_trial_with_the_place_and_the_way_out(tmp_path, models, monkeypatch, what):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(4), engine={"backend": "transformers"})
    prepared, (start, _) = stage_inputs(cfg, section(cfg)), scripted(models("qwen3"), "qwen3")
    plan = plan_of(cfg)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StageError, match=f"cannot write in {tmp_path / 'work'}: .*Make room"):
        if what == "try":
            try_rows(cfg, prepared, plan, 2, make_engine=start)
        else:
            measure_shift(cfg, prepared, 2, make_engine=start)


def test_a_full_disk_under_the_figures_is_no_traceback(tmp_path, monkeypatch):
    config_file = tmp_path / "cfg.yml"
    config_file.write_text("{}")
    monkeypatch.setattr(load, "load_config", lambda *_: None)
    monkeypatch.setattr(load, "plan_run", lambda *_, **__: (None, None, None))
    monkeypatch.setattr(report, "show", lambda *_: None)
    monkeypatch.setattr(report, "as_json", lambda *_: {"rows": 1})
    done = CliRunner().invoke(cli.main, [str(config_file), "--json", "/dev/full"])
    assert done.exit_code == 1 and "Error: cannot write in /dev: [Errno 28] No space left on device" in done.output


def test_what_a_model_writes_cannot_steer_the_terminal(tmp_path, models):
    model = models("qwen3")
    evil = "\x1b]0;owned\x07\x1b[31m[bold]no[/bold]\u202eabc\r\x9b2J"
    cfg = config(tmp_path, model, safechain_rows(4), method="thinksafe")
    start = scripted_by_prompt(model, lambda shown, request: f"<think>\nhm {evil}\n</think>\n\nI can't help. {evil}")
    trial = try_rows(cfg, stage_inputs(cfg, section(cfg)), plan_of(cfg), 4, make_engine=start)
    with open(tmp_path / "shown.txt", "w", encoding="utf-8") as file:
        show_trial(Console(file=file, width=100, force_terminal=False), trial)
    shown = (tmp_path / "shown.txt").read_text(encoding="utf-8")
    assert not set(shown) & set("\x1b\x07\x9b\r\u202e")
    assert "\\x1b]0;owned\\x07" in shown and "[bold]no[/bold]" in shown and "\\u202e" in shown
    assert evil in trial_json(trial)["rows"][0]["answer"] or evil in trial_json(trial)["rows"][1]["answer"]
    assert visible("plain\ttext\n") == "plain\ttext\n"


def test_shift_is_the_mean_over_references_and_goes_through_the_journal(tmp_path, models):
    model = models("qwen3")
    rows = tiny.direct_refusal_rows(12)
    cfg = config(tmp_path, model, rows, method="vanilla")
    prepared = stage_inputs(cfg, section(cfg), engine=True)
    start, engines = scripted(model, "qwen3")
    (harmful, everything) = measure_shift(cfg, prepared, 5, make_engine=start)
    assert (harmful.label, everything.label, harmful.rows) == ("harmful", "all", 5)
    # The scripted engine's log p is -0.01 times the sum of the ids.
    tasks = [task for task in prepared.entries[0].tasks]
    every = [0.01 * sum(task.reference_ids) / len(task.reference_ids) for task in tasks]
    assert min(every) <= harmful.mean <= max(every) and harmful.quantiles == tuple(sorted(harmful.quantiles))
    assert len(engines[0].seen) == 5
    measure_shift(cfg, prepared, 5, make_engine=lambda *_: pytest.fail("scored again"))
    # The stage asks for the same scores: what was measured is not measured again.
    dgr = config(tmp_path, model, rows, dgr={"retries": 0})
    inputs = stage_inputs(dgr, section(dgr))
    assert walk(inputs, inputs.open_journals(read_only=True)).held["score"] == 5


def test_shift_of_a_set_that_is_to_be_answered_anew(tmp_path, models):
    cfg = config(tmp_path, models("qwen3"), safechain_rows(10), method="thinksafe")
    start, engines = scripted(models("qwen3"), "qwen3")
    found = measure_shift(cfg, stage_inputs(cfg, section(cfg), engine=True), 10, make_engine=start)
    assert [(one.label, one.rows) for one in found] == [("harmful", 5), ("benign", 5), ("all", 10)]


def test_times_in_words():
    assert [duration(value) for value in (45, 600, 36000)] == ["45 s", "10 min", "10.0 h"]


def test_offline_a_model_is_readable_if_its_weights_are_here(models, monkeypatch):
    assert machine.access([(str(models("qwen3")), None)]) == {str(models("qwen3")): ""}
    assert "not in the cache" in machine.access([("some/absent-model", None)])["some/absent-model"]


def test_a_plan_of_auto_counts_the_probing_and_announces_no_choice(tmp_path, models, caplog):
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(10), dgr={"prompt": "auto", "probe_rows": 4})
    with caplog.at_level("INFO", logger="axolotl_safety"):
        plan = plan_of(cfg)
    probing = [phase for phase in plan.load.phases if ", probe" in phase.title]
    assert len(probing) > 1 and all(phase.requests == 4 for phase in probing)
    assert "prompt auto" not in caplog.text


def test_a_plan_counts_every_question_of_a_guard_and_its_thoughts(tmp_path, models):
    """ShieldGemma is asked once per guideline and writes a word; gpt-oss-safeguard is asked once and thinks."""
    verdicts = {}
    for family in ("qwen3guard", "shieldgemma", "gpt_oss_safeguard"):
        folder = tmp_path / family
        folder.mkdir()
        guard = {"model": guard_folder(folder, models("qwen3"), "qwen3guard"), "family": family}
        cfg = config(folder, models("qwen3"), tiny.direct_refusal_rows(10), dgr={"retries": 0}, guard=guard)
        (phase,) = [one for one in plan_of(cfg).load.phases if one.title.startswith("verdicts")]
        verdicts[family] = (phase.requests, phase.new_tokens / phase.requests)
    usual = verdicts["qwen3guard"][0]
    assert verdicts["shieldgemma"] == (pytest.approx(4 * usual), 1) and verdicts["qwen3guard"][1] == 20
    assert verdicts["gpt_oss_safeguard"] == (pytest.approx(usual), 200)
