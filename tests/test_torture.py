"""The crash and fault campaign in its short form: it holds, and it notices every way in which the product is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torture.campaign import main, run
from torture.disk import SMALLEST
from torture.runs import Job, Runs
from torture.scenario import Scenario

SEED = 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    scenario = Scenario(tmp_path_factory.mktemp("torture"), 12)
    made = Runs(scenario)
    yield made, scenario
    made.close()


def summary_of(captured) -> dict:
    return json.loads(captured.out.splitlines()[-1])


@pytest.mark.timeout(900)
def test_the_short_campaign_holds(runs, capsys):
    code = run(*runs, seed=SEED, points=5, short=True)
    summary = summary_of(capsys.readouterr())
    assert code == 0 and summary["failed"] == [], summary
    assert summary["kill_points"] >= 8 and summary["seed"] == SEED
    assert {"proposal", "guard", "scoring", "choice", "hand-off"} <= set(summary["kills_by_phase"])
    assert summary["lost"] == summary["doubled"] == summary["unverified"] == 0
    assert summary["identical"] == summary["compared"] > 100 and summary["clear_stops"] >= 3


@pytest.mark.parametrize("folder", ["a", f"{'a' * 200}/{'b' * 200}/{'c' * 200}"], ids=["short path", "long path"])
@pytest.mark.parametrize("limit", [SMALLEST, 2000, 5000, 8000])
def test_a_limit_on_files_is_the_products_and_leaves_the_campaigns_notes_whole(runs, folder, limit):
    made, scenario = runs
    scenario.write_rows()
    work = scenario.folder / f"limited-{limit}" / folder / "work"
    stopped = made.finish(Job(work, full=("limit", limit)))
    (stop,) = set(stopped.stops)
    assert stopped.code == 1 and stop.startswith(f"StageError: cannot write in {work}: ")
    assert f"'{work}/journal/target-" in stop and stop.endswith("run the same command again: finished work is kept.")
    log = stopped.log
    assert "Traceback" in log and "--- Logging error ---" not in log and len(log) > min(limit, 4000)
    assert stopped.made and {len(name) for name in stopped.made} == {32}
    assert max(path.stat().st_size for path in work.rglob("*") if path.is_file()) <= limit


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("mode", "figure"), [("drop_record", "lost"), ("double_record", "doubled"), ("fail_open_guard", "unverified")]
)
def test_a_broken_product_is_noticed(runs, capsys, monkeypatch, mode, figure):
    monkeypatch.setattr(runs[0], "sabotage", mode)
    assert run(*runs, seed=SEED, points=2, short=True, only="at_instants") == 1
    summary = summary_of(capsys.readouterr())
    assert summary[figure] > 0 and summary["failed"], summary


def test_an_unknown_sabotage_is_an_error(capsys):
    assert main([], {"SABOTAGE": "drop_everything"}) == 2
    assert "drop_everything" in (said := capsys.readouterr().err) and "drop_record" in said


def test_the_checks_do_not_know_of_the_sabotage():
    folder = Path(__file__).parent / "torture"
    for name in ("evidence", "case", "kills", "damage", "disk", "engine", "together"):
        assert "sabotage" not in (folder / f"{name}.py").read_text().lower()
