"""The report: rebuilt to the byte, true to the rows, small, and deaf to whatever a model writes into it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from axolotl.utils.dict import DictDefault
from support import browser, tiny
from support.report import HOSTILE, Elements, hostile_stage, made_up_folder
from support.stage import config, rows_of, scripted, scripted_by_prompt

from axolotl_safety.commands.report.figures import histogram
from axolotl_safety.commands.report.merges import note_merge
from axolotl_safety.commands.report.page import LIMIT_BYTES, try_report, write_report
from axolotl_safety.commands.report.samples import embed
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.plugin import SafetyPlugin
from axolotl_safety.util.errors import NothingAccepted, StageError


@pytest.fixture(scope="module")
def finished(tmp_path_factory, models):
    """A finished stage: its config, its work folder, its outputs, its report."""
    folder = tmp_path_factory.mktemp("report")
    cfg, start = hostile_stage(folder, models("qwen3"))
    outputs = run_stage(cfg, make_engine=start)
    work_dir = Path(cfg.safety["work_dir"])
    return cfg, work_dir, outputs, write_report(work_dir)


def test_the_report_rebuilt_from_the_journals_alone_has_the_same_bytes(finished, tmp_path):
    cfg, work_dir, _, report = finished
    first = report.read_bytes()
    shutil.rmtree(work_dir / "datasets")
    run_stage(cfg, allow_engine=False)
    assert write_report(work_dir, tmp_path / "again.html").read_bytes() == first
    assert b"peak memory" in first  # what the engine cost, which the second run could not know by itself


def test_it_says_of_every_row_what_the_rows_say(finished):
    _, _, outputs, report = finished
    page = Elements(report.read_text())
    rows = [row for index in sorted(outputs) for row in rows_of(outputs[index])]
    shown = page.data["rows"]
    assert page.data["total"] == len(rows) == len(shown) == 52
    for row, sample in zip(rows, shown, strict=True):
        for name in ("prompt", "thinking", "answer", "reference_thinking", "reference_answer"):
            assert sample[name] == row[name]
        assert (sample["status"], sample.get("reason")) == (row["status"], row["reason"])
        assert sample.get("after") == (row["nll_accepted"] and round(row["nll_accepted"], 3))
        if row["status"] == "accepted":
            assert sum(sample["tokens"]) == len(row["prompt_token_ids"]) + len(row["response_token_ids"])
            assert 0 < sample["tokens"][1] < len(row["response_token_ids"])
    assert {row["reason"] for row in rows if row["reason"]} >= {"not_refused", "unclosed_think"}
    for reason, count in Counter(row["reason"] for row in rows if row["reason"]).items():
        assert reason in page.text.replace("\u200b", "") and f"{count:,}" in page.text


def test_nothing_that_a_model_writes_becomes_markup(finished):
    page = Elements(finished[3].read_text())
    assert [attributes.get("type") for tag, attributes in page.elements if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not {tag for tag, _ in page.elements} & {"img", "iframe", "object", "embed", "base", "link", "form"}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "srcset", "action", "style"), (tag, name)
            assert name != "href" or (value or "").startswith("#"), (tag, value)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "*" not in policy
    texts = json.dumps(page.data["rows"], ensure_ascii=False)
    assert all(json.dumps(text, ensure_ascii=False)[1:-1] in texts for text in HOSTILE)
    assert sum(tag == "style" for tag, _ in page.elements) == 1


@pytest.mark.parametrize("text", [*HOSTILE, "</ScRiPt ", "\ud800".encode("utf-8", "backslashreplace").decode(), "日本"])
def test_embedded_json_reads_back_and_cannot_end_its_element(text):
    found = embed({text: [text]})
    assert json.loads(found) == {text: [text]} and not set("<>&\u2028\u2029") & set(found)


def test_without_texts_no_word_of_a_row_is_in_the_file(finished, tmp_path):
    _, work_dir, outputs, _ = finished
    page = write_report(work_dir, tmp_path / "bare.html", texts=False).read_text()
    words = ("jinx the lamp", "polish the kettle", "case ", "soft cloth", "help with that")
    assert not [word for word in words if word in page]
    assert len(Elements(page).data["rows"]) == 52 and "--no-text" in page


def test_many_long_rows_stay_below_the_limit_and_every_reason_is_shown(tmp_path):
    made_up_folder(tmp_path, 1200, thought_words=1500)
    page = write_report(tmp_path).read_bytes()
    found = Elements(page.decode())
    shown = found.data["rows"]
    assert 1_000_000 < len(page) < LIMIT_BYTES and 200 < len(shown) < 1200
    assert f"{len(shown):,} of 1,200 rows stand in this file" in found.text
    assert {row["reason"] for row in shown if "reason" in row} == {
        *("not_refused", "unclosed_think", "leak", "guard_unsafe", "loop")
    }
    assert write_report(tmp_path).read_bytes() == page
    whole = max(shown, key=lambda row: len(row["thinking"]))
    assert len(whole["thinking"]) > 8000


@pytest.mark.parametrize(
    ("safety", "words"),
    [
        ({"method": "vanilla"}, "vanilla starts no engine"),
        ({"dgr": {"retries": 0, "on_failure": "keep_original"}}, "keep the original response"),
        (
            {"dgr": {"n": 4, "retries": 0}, "choice": "lowest_nll", "max_rows": 9},
            "what max_rows, only and",
        ),
        ({"dgr": {"prompt": "auto"}}, "dgr/structured@1"),
    ],
)
def test_every_kind_of_stage_can_be_reported(tmp_path, models, safety, words):
    start, _ = scripted(models("qwen3"), "qwen3")
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(30), **safety)
    run_stage(cfg, make_engine=start)
    text = Elements(write_report(tmp_path / "work").read_text()).text
    assert words in text and "Provenance" in text


def test_an_evaluation_is_drawn_and_a_broken_one_is_left_out(finished, tmp_path, caplog):
    work_dir = tmp_path / "work"
    shutil.copytree(finished[1], work_dir)
    place = {"set": "toy<set>", "axis": "reasoning", "metric": "correct"}
    figure = {"value": 87.5, "interval": [80.0, 92.5], "n": 40, "judge": "math", "heuristic": False}
    tuned = {**place, "model": "tuned", "difference": -2.5, "interval": [-6.0, 1.0]}
    folder = work_dir / "evaluations" / "abc"
    folder.mkdir(parents=True)
    (folder.parent / "latest.json").write_text('{"hash": "abc"}')
    figures = [{**place, **figure, "model": "base"}, {**place, **figure, "model": "tuned"}]
    tax = [{"model": "tuned", "set": "toy<set>", "points": 2.5, "interval": [-1.0, 6.0]}]
    attack = {"set": "toy<set>", "axis": "harm", "metric": "harmful", "attack": "prefill 8", "model": "tuned"}
    attacked = {**figure, "value": 61.5, "axis": "harm", "set": "toy<set>", "model": "tuned"}
    figures += [
        attacked | {"metric": "harmful", "value": 4.5},
        attacked | {"metric": "harmful, prefill 8", "attack": "prefill 8"},
        attacked | {"metric": "harmful, prefill whole", "attack": "prefill whole", "value": None, "n": 0},
    ]
    effects = [attack | {"difference": 57.0, "interval": [40.0, 70.0]}]
    said = {"figures": figures, "comparisons": [tuned], "safety_tax": tax, "attacks": effects}
    (folder / "results.json").write_text(json.dumps(said))
    text = Elements(write_report(work_dir).read_text()).text
    assert "toy<set>" in text and "87.5 [80.0, 92.5]" in text and "-2.5 [-6.0, +1.0]" in text
    assert "Safety tax of tuned on toy<set>: +2.5 [-1.0, +6.0] points" in text
    ladder = text.partition("toy<set> (harm) under attack: harmful")[2]
    rungs = [ladder.index(words) for words in ("plain", "4.5 [", "prefill 8", "61.5 [", "+57.0 [+40.0, +70.0]")]
    assert rungs == sorted(rungs) and ladder.index("on no prompt") > ladder.index("prefill whole") > rungs[-1]
    for broken in ("{", "[]", '{"figures": [{"value": 3}]}', '{"figures": 7}'):
        (folder / "results.json").write_text(broken)
        caplog.clear()
        assert "toy<set>" not in Elements(write_report(work_dir).read_text()).text
        assert "left out of the report" in caplog.text


def test_a_merge_is_noted_and_never_fails(finished, tmp_path, caplog):
    work_dir = tmp_path / "work"
    shutil.copytree(finished[1], work_dir)
    cfg = DictDefault(finished[0].to_dict())
    cfg.safety["work_dir"] = str(work_dir)
    for adapter in ("first", "second"):
        note_merge(cfg, str(tmp_path / adapter), str(tmp_path / "merged"))
    text = Elements((work_dir / "report.html").read_text()).text
    assert str(tmp_path / "merged") in text and f"{tmp_path / 'second'} on {cfg.base_model}" in text
    assert str(tmp_path / "first") not in text
    (work_dir / "merges.json").write_text("[1")
    assert "Merged models" not in Elements(write_report(work_dir).read_text()).text
    assert "merges.json is left out of the report" in caplog.text
    shutil.rmtree(work_dir)
    note_merge(cfg, "a", "b")
    assert not work_dir.exists()
    work_dir.mkdir()
    (work_dir / "merges.json").mkdir()
    note_merge(cfg, "a", "b")
    assert "the merge is done, but" in caplog.text


def test_a_report_that_cannot_be_written_costs_a_warning_and_no_more(tmp_path, caplog):
    assert try_report(tmp_path) is None and "axolotl safety-report" in caplog.text
    with pytest.raises(StageError, match="axolotl preprocess"):
        write_report(tmp_path)


def test_when_nothing_was_accepted_the_report_shows_why(tmp_path, models, monkeypatch):
    model = models("qwen3")
    two = [
        {"path": str(tiny.write_rows(tmp_path / f"{name}.jsonl", rows)), "type": "axolotl_safety.dgr"}
        for name, rows in (("first", tiny.direct_refusal_rows(3)), ("second", tiny.direct_refusal_rows(7)[3:]))
    ]
    cfg = config(tmp_path, model, [], top={"datasets": two})
    start = scripted_by_prompt(model, lambda shown, request: "<think>\nwell\n</think>\n\nSure, rub it with a cloth.")
    monkeypatch.setattr("axolotl_safety.pipeline.stage.run_stage", lambda cfg, **_: run_stage(cfg, make_engine=start))
    with pytest.raises(NothingAccepted, match=r"first.jsonl.*not_refused.*second.jsonl.*report.html"):
        SafetyPlugin().load_datasets(cfg)
    report = tmp_path / "work" / "report.html"
    page = Elements(report.read_text())
    assert page.data["total"] == 7 and {row["reason"] for row in page.data["rows"]} == {"not_refused"}
    assert not list((tmp_path / "work" / "datasets").glob("*/train"))
    report.unlink()
    with pytest.raises(NothingAccepted):  # and again, from the journals alone
        run_stage(cfg, allow_engine=False)
    assert len(Elements(write_report(tmp_path / "work").read_text()).data["rows"]) == 7


def test_a_histogram_counts_every_value_once():
    values = [0.0, 0.1, 0.1, 3.0, 400.0, *([1.0] * 500), None]
    found = histogram({"a": ("plain", values), "none": ("plain", [None])})
    assert found and [series.name for series in found.series] == ["a"]
    assert sum(found.series[0].counts) == 505 and found.clipped == 2 and max(found.series[0].heights) == 100
    assert found.series[0].counts[0] == 1 and found.edges[0] == 0 and histogram({"a": ("plain", [None])}) is None


@pytest.mark.skipif(browser.find() is None, reason="no Chromium here (apt-get install chromium, or set CHROMIUM)")
def test_in_a_browser_nothing_runs_and_everything_can_be_read(finished, tmp_path):
    with browser.page(browser.find() or "", tmp_path / "profile") as page:
        page.open(finished[3], 360, 800)
        assert page.run("document.querySelectorAll('.sample').length") == 10
        assert page.run("document.documentElement.scrollWidth") <= 360
        seen = ""
        for _ in range(6):
            page.run("document.querySelectorAll('.sample details').forEach((box) => { box.open = true; })")
            seen += page.run("document.getElementById('list').textContent")
            assert page.run("document.documentElement.scrollWidth") <= 360
            page.run("document.getElementById('next').click()")
        page.run("document.querySelectorAll('#list *').forEach((element) => { element.click(); })")
        for text in HOSTILE[:8]:
            assert text in seen
        assert "[U+001B][31mred" in seen and "[U+202E]gnp.exe" in seen and "\x1b" not in seen
        assert page.run("typeof window.pwned") == "undefined"
        assert page.run("document.title").startswith("Data report: ")
        assert (
            page.run("document.querySelectorAll('#list script, #list img, #list a, #list svg, #list style').length")
            == 0
        )

        page.open(finished[3], 1280, 900, dark=True)
        light = page.run("getComputedStyle(document.body).backgroundColor")
        assert sum(int(part) for part in light[4:-1].split(",")) < 120
        page.run("document.getElementById('by-status').value = 'rejected'")
        page.run("document.getElementById('by-status').dispatchEvent(new Event('change'))")
        chips = page.run("[...document.querySelectorAll('.sample .chip:first-child')].map((chip) => chip.textContent)")
        assert chips and set(chips) == {"rejected"}
        # What was rejected is folded away, and the keyboard alone unfolds it.
        page.run("document.querySelector('.sample > details > summary').focus()")
        assert page.run("document.querySelector('.sample > details').open") is False
        page.press("Enter")
        assert page.run("document.querySelector('.sample > details').open") is True
        page.run("document.getElementById('by-status').value = ''")
        page.run("document.getElementById('query').value = 'Kettle number 7?'")
        page.run("document.getElementById('query').dispatchEvent(new Event('input'))")
        found = page.run(
            "new Promise((done) => setTimeout(() => done(document.getElementById('place').textContent), 400))"
        )
        assert found.startswith("1 to 1 of 1 matching, 52 of 52 rows")
        assert page.run("document.querySelector('#list mark').textContent") == "kettle number 7?"
        asked = [
            event["params"]["request"]["url"] for event in page.events if event["method"] == "Network.requestWillBeSent"
        ]
        assert asked and all(url.startswith("file:") for url in asked)
        loud = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
        assert not [event for event in page.events if event["method"] in loud]
