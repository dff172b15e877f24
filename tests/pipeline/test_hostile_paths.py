"""Names that strangers give to files, datasets, categories and sets are text: no path, no command, no door."""

from __future__ import annotations

import json
import logging
import re
import traceback
from pathlib import Path
from typing import Any

import pytest
from support import evaluation as eval_helpers
from support import tiny
from support.stage import config, manifest_of, rows_of, scripted

from axolotl_safety.commands.evaluate.evaluation import evaluate
from axolotl_safety.commands.report.page import write_report
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import DataError
from axolotl_safety.util.terminal import without_credentials

TRICKS = [
    "../../owned",
    "/tmp/owned",
    "~/owned",
    "$(touch owned)",
    "`touch owned`",
    "; touch owned #",
    "owned\nowned",
    "owned\0owned",
    "%2e%2e%2fowned",
    "..\\owned",
    "manifest.json",
    "CON",
    "o" * 4000,
]
OURS = re.compile(r"[A-Za-z0-9._-]{1,120}")


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def only_ours(work: Path) -> None:
    """Every name below a work folder is one that the product gives."""
    strange = [str(path) for path in work.rglob("*") if not OURS.fullmatch(path.name) or "owned" in path.name]
    assert not strange


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A working directory and a home in which nothing may appear."""
    folder = tmp_path / "away"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_no_value_in_a_row_becomes_a_path(tmp_path, models, away):
    rows = [
        {**row, "id": trick, "category": trick, "source": trick, trick: trick}
        for row, trick in zip(tiny.direct_refusal_rows(len(TRICKS)), TRICKS, strict=True)
    ]
    start, _ = scripted(models("qwen3"), "qwen3")
    cfg = config(tmp_path, models("qwen3"), rows, entry={"safety": {"category_field": "category"}})
    before = everything(tmp_path)
    output = run_stage(cfg, make_engine=start)[0]
    write_report(tmp_path / "work")
    assert len(rows_of(output)) == len(TRICKS)
    new = everything(tmp_path) - before
    assert new and all(name.split("/")[0] == "work" for name in new) and not list(away.iterdir())
    assert not any(Path(place, "owned").exists() for place in ("/tmp", tmp_path.parent, tmp_path.parent.parent))
    only_ours(tmp_path / "work")


@pytest.mark.parametrize("name", ["$(touch owned).jsonl", "a;touch owned;.jsonl", "a\nb.jsonl", "..jsonl", "-rf.jsonl"])
def test_a_file_of_any_name_is_read_and_named_in_the_manifest_alone(tmp_path, models, away, name):
    path = tiny.write_rows(tmp_path / name, tiny.direct_refusal_rows(4))
    start, _ = scripted(models("qwen3"), "qwen3")
    output = run_stage(config(tmp_path, models("qwen3"), path), make_engine=start)[0]
    assert manifest_of(output)["source"]["path"] == str(path)
    only_ours(tmp_path / "work")
    assert not list(away.iterdir())


def test_names_that_differ_in_case_or_not_at_all_share_nothing(tmp_path, models):
    rows = tiny.direct_refusal_rows(8)
    paths = [tmp_path / "one" / "Rows.jsonl", tmp_path / "one" / "rows.jsonl", tmp_path / "two" / "rows.jsonl"]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        tiny.write_rows(path, rows[2 * number : 2 * number + 3])
    entries = [{"path": str(path), "type": "axolotl_safety.dgr"} for path in paths]
    start, _ = scripted(models("qwen3"), "qwen3")
    outputs = run_stage(config(tmp_path, models("qwen3"), rows, top={"datasets": entries}), make_engine=start)
    assert len({output["train"] for output in outputs.values()}) == 3
    assert [manifest_of(outputs[index])["source"]["path"] for index in range(3)] == [str(path) for path in paths]


def test_a_folder_that_is_a_link_to_elsewhere_is_not_closed_to_its_owners(tmp_path, models):
    """``work_dir`` on another disk is usual; what lies beside it there is left as it is."""
    other = tmp_path / "other"
    (other / "beside").mkdir(parents=True, mode=0o755)
    (other / "safety").mkdir()
    (tmp_path / "link").symlink_to(other / "safety")
    start, _ = scripted(models("qwen3"), "qwen3")
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(4), work_dir=str(tmp_path / "link"))
    assert rows_of(run_stage(cfg, make_engine=start)[0])
    assert sorted(path.name for path in other.iterdir()) == ["beside", "safety"]
    assert (other / "beside").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", TRICKS)
def test_a_sets_name_is_no_path(tmp_path, models, away, name):
    sets = eval_helpers.write_sets(tmp_path, 2, 2, 2)
    sets["harm"] = [{"name": name, "path": sets["harm"][0]}]
    cfg = eval_helpers.config(tmp_path, models("qwen3"), sets)
    start, _ = eval_helpers.scripted(models("qwen3"), lambda tuned, shown, number: eval_helpers.REFUSAL)
    before = everything(tmp_path)
    done = evaluate(cfg, make_engine=start)
    assert all(path.split("/")[0] == "work" for path in everything(tmp_path) - before)
    assert not any(Path(place, "owned").exists() for place in ("/tmp", tmp_path.parent, tmp_path.parent.parent))
    assert name in {one["set"] for one in done.results["sets"]}
    only_ours(tmp_path / "work")
    assert not list(away.iterdir())


# Put together here, so that no scanner takes them for real ones.
PASSWORD, TOKEN, HUB = "pa55" + "w0rd", "t0k" + "en123", "hf" + "_" + "QwErTy" * 5
ADDRESS = f"https://me:{PASSWORD}@127.0.0.1:1/{HUB}/rows.jsonl?split=train&X-Amz-Signature={TOKEN}&api_key={TOKEN}#end"


def test_an_addresses_user_and_keys_are_left_out_and_nothing_else():
    shown = without_credentials(ADDRESS)
    assert shown == "https://***@127.0.0.1:1/hf_***/rows.jsonl?split=train&X-Amz-Signature=***&api_key=***#end"
    assert without_credentials(f"s3://id:{PASSWORD}@x@bucket/a") == "s3://***@bucket/a"
    assert without_credentials(f"https://host/a#access_token={TOKEN}") == "https://host/a#access_token=***"
    assert without_credentials(f"https://host/a?pwd={TOKEN}") == "https://host/a?pwd=***"
    for plain in ("https://host:8000/a@b/c?split=train&page=2", "org/data", "/a/b c/d.jsonl", "a=b", "mail me@here"):
        assert without_credentials(plain) == plain


@pytest.fixture
def held(monkeypatch):
    """Axolotl's loader in the place of one that has the network."""

    def hold(answer: Any) -> None:
        monkeypatch.setattr("axolotl_safety.data.sources._read_with_axolotl", answer)

    return hold


def test_a_password_in_a_datasets_address_reaches_no_file_and_no_log(tmp_path, models, held, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    held(lambda *_: (tiny.direct_refusal_rows(6), {}))
    start, _ = scripted(models("qwen3"), "qwen3")
    cfg = config(tmp_path, models("qwen3"), [], entry={"path": ADDRESS})
    output = run_stage(cfg, make_engine=start)[0]
    write_report(tmp_path / "work")
    assert manifest_of(output)["source"]["path"].startswith("https://***@127.0.0.1")
    shown = caplog.text + "".join(capfd.readouterr())
    assert "https://***@" in shown
    kept = b"".join(path.read_bytes() for path in (tmp_path / "work").rglob("*") if path.is_file())
    for secret in (PASSWORD, TOKEN, HUB):
        assert secret not in shown and secret.encode() not in kept


def test_an_address_that_cannot_be_read_is_named_without_them(tmp_path, models, held, caplog):
    def refuse(*_: object) -> None:
        raise OSError(f"cannot open {ADDRESS}: 403")

    held(refuse)
    cfg = config(tmp_path, models("qwen3"), [], entry={"path": ADDRESS})
    with pytest.raises(DataError, match=r"https://\*\*\*@127.0.0.1.*403") as caught:
        run_stage(cfg)
    told = "".join(traceback.format_exception(caught.value))
    assert not any(secret in told for secret in (PASSWORD, TOKEN, HUB))


def test_a_sets_address_is_kept_out_of_the_results_too(tmp_path, models, held):
    held(lambda *_: ([{"prompt": f"How do I jinx lamp {n}?"} for n in range(2)], {}))
    sets = {"harm": [{"name": "mine", "path": ADDRESS}], "sampling": {"max_new_tokens": 50}}
    cfg = eval_helpers.config(tmp_path, models("qwen3"), sets, datasets=[{"path": ADDRESS, "type": "alpaca"}])
    start, _ = eval_helpers.scripted(models("qwen3"), lambda tuned, shown, number: eval_helpers.REFUSAL)
    done = evaluate(cfg, make_engine=start)
    assert done.results["training_data"]["not_compared"] == [without_credentials(ADDRESS)]
    told = json.dumps(done.results) + (done.folder / "results.json").read_text()
    assert "https://***@" in told and not any(secret in told for secret in (PASSWORD, TOKEN, HUB))
