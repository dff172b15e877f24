"""A finished stage is served at once while everything that it was made from is as it was, and not otherwise."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from axolotl.utils.dict import DictDefault
from support import stage as stage_helpers
from support import tiny

from axolotl_safety.config.work_dir import LATEST
from axolotl_safety.pipeline import cache as finished
from axolotl_safety.pipeline import stage
from axolotl_safety.pipeline.cache import FINISHED, KEYS, recall
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import StageError

ROWS = stage_helpers.safechain_rows(8)


class Run:
    """A finished stage: its config as keywords, so that one of them can be changed, and what it returned."""

    def __init__(self, folder: Path, models):
        self.folder, self.work = folder, folder / "work"
        self.model = shutil.copytree(models("qwen3"), folder / "model")
        self.settings = {"method": "thinksafe"}
        self.rows = ROWS
        start = stage_helpers.scripted_by_prompt(self.model, stage_helpers.thinksafe_answer)
        self.outputs = run_stage(self.config(), make_engine=start)

    def config(self, **changed):
        return stage_helpers.config(self.folder, self.model, self.rows, **{**self.settings, **changed})

    @property
    def dataset(self) -> Path:
        return Path(self.outputs[0]["train"]).parent

    @property
    def journal(self) -> Path:
        (path,) = (self.work / "journal").glob("target-*.jsonl")
        return path


@pytest.fixture
def run(tmp_path, models):
    return Run(tmp_path, models)


def test_what_has_not_changed_is_served_without_a_walk(run, caplog):
    with caplog.at_level(logging.INFO, logger="axolotl_safety"):
        assert recall(run.config()) == run.outputs
    assert "finished before" in caplog.text and "engine starts 0" in caplog.text and "made 0, reused" in caplog.text
    counts = stage_helpers.manifest_of(run.outputs[0])["counts"]
    assert counts.pop("reused") > 0 and not any(counts.values())


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 7},
        {"sampling": {"temperature": 1.0}},
        {"choice": "lowest_nll"},
        {"thinksafe": {"attempts": 3}},
        {"guard": {"model": "builtin", "allow_controversial": True}},
        {"kl": {}},
        {"entry": {"safety": {"max_rows": 4}}},
        {"entry": {"split": "train[:50%]"}},
        {"method": "vanilla"},
        {"top": {"sequence_len": 500}},
        {"top": {"seed": 3}},
        {"top": {"trust_remote_code": True}},
    ],
    ids=str,
)
def test_another_yaml_is_walked(run, changed):
    assert recall(run.config(**changed)) is None


@pytest.mark.parametrize("changed", [{"max_hours": 100}, {"eval": {"harm": ["HarmBench"]}}], ids=str)
def test_what_no_row_depends_on_does_not_count(run, changed):
    assert recall(run.config(**changed)) == run.outputs


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def shaped(note) -> str:
    """A note with a sound checksum."""
    text = json.dumps(note)
    return f"{finished._checksum(text)}\n{text}\n"


DAMAGE = {
    "a source row": lambda run: run.rows.__setitem__(0, {**run.rows[0], "instruction": "How do I polish the cup?"}),
    "the weights": lambda run: _flip(run.model / "model.safetensors", -1),
    "the chat template": lambda run: (run.model / "chat_template.jinja").write_text("{{ messages }}"),
    "a byte of the journal": lambda run: _flip(run.journal, 40),
    "the journal's end": lambda run: os.truncate(run.journal, run.journal.stat().st_size - 1),
    "the journal": lambda run: run.journal.unlink(),
    "the ids": lambda run: _flip(next((run.dataset / "train").glob("*.arrow")), -600),
    "the dataset": lambda run: shutil.rmtree(run.dataset / "train"),
    "the rows": lambda run: (run.dataset / "rows.parquet").unlink(),
    "a byte of the rows": lambda run: _flip(run.dataset / "rows.parquet", 400),
    "what the last stage wrote": lambda run: (run.work / LATEST).write_text('{"0": "0123"}'),
    "the note": lambda run: (run.work / FINISHED).unlink(),
    "a torn note": lambda run: os.truncate(run.work / FINISHED, 40),
    "a note of something else": lambda run: (run.work / FINISHED).write_text(shaped([1])),
    "a note of another shape": lambda run: (run.work / FINISHED).write_text(shaped({"outputs": {"0": 1}})),
    "a note without its checksum": lambda run: _edit(run.work / FINISHED, "\n", "0\n"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_has_changed_on_the_disk_is_walked(run, what):
    rows = list(run.rows)
    run.rows = rows
    DAMAGE[what](run)
    assert recall(run.config()) is None


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("[]")])
def test_a_manifest_is_written_anew(run, harm):
    path = run.dataset / "manifest.json"
    before = json.loads(path.read_text())
    harm(path)
    assert recall(run.config()) == run.outputs
    after = json.loads(path.read_text())
    assert {key for key in before if before[key] != after[key]} <= {"counts", "engine", "seconds"}


def test_another_version_of_package_or_library_is_walked(run, monkeypatch):
    cfg = run.config()
    with monkeypatch.context() as patch:
        patch.setattr(finished, "_code", lambda: "other")
        assert recall(cfg) is None
    versions = finished.metadata.version
    monkeypatch.setattr(finished.metadata, "version", lambda name: "9" if name == "tokenizers" else versions(name))
    assert recall(cfg) is None


def test_the_code_is_this_packages_own(tmp_path, monkeypatch):
    package = shutil.copytree(Path(finished.__file__).parent, tmp_path / "package")
    monkeypatch.setattr(finished, "__file__", str(package / "finished.py"))
    before = finished._code()
    _edit(package / "engines" / "worker" / "sampling.py", "import", " import")
    assert finished._code() != before


def test_a_journal_that_has_grown_serves_as_before(run):
    with open(run.journal, "ab") as file:
        file.write(b'{"kind":"completion","request_id":"another"}\n')
    assert recall(run.config()) == run.outputs


def test_a_folder_that_has_moved_serves_as_before(run, tmp_path):
    moved = run.work.rename(tmp_path / "moved")
    found = recall(run.config(work_dir=str(moved)))
    assert found[0]["hash"] == run.outputs[0]["hash"] and Path(found[0]["train"]).is_relative_to(moved)


def test_rows_that_change_while_the_stage_runs_are_not_taken_for_those_it_read(tmp_path, models):
    answer = stage_helpers.thinksafe_answer

    def edited(shown, request):
        if not changed:
            _edit(tmp_path / "rows.jsonl", "lamp number 0", "cup number 0")
        changed.append(request)
        return answer(shown, request)

    changed = []
    model = models("qwen3")
    cfg = stage_helpers.config(tmp_path, model, ROWS, method="thinksafe")
    run_stage(cfg, make_engine=stage_helpers.scripted_by_prompt(model, edited))
    assert changed and recall(cfg) is None


def test_a_stage_that_did_not_end_is_not_served(tmp_path, models, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_atomically", full)
        with pytest.raises(StageError, match="Make room"):
            Run(tmp_path, models)
    assert not (tmp_path / "work" / FINISHED).exists()


def test_warnings_about_the_rows_are_said_again(tmp_path, models, caplog):
    run = Run.__new__(Run)
    run.folder, run.work, run.settings = tmp_path, tmp_path / "work", {"method": "thinksafe"}
    run.model, run.rows = models("qwen3"), [row for row in ROWS if "jinx" in row["instruction"]]
    start = stage_helpers.scripted_by_prompt(run.model, stage_helpers.thinksafe_answer)
    outputs = run_stage(run.config(), make_engine=start)
    caplog.clear()
    assert recall(run.config()) == outputs and "no benign rows" in caplog.text


def vanilla(tmp_path, models):
    """Rows as they are, and a guard that is not there: nothing is judged, so nobody loads it."""
    rows = tiny.direct_refusal_rows(4)
    return stage_helpers.config(tmp_path, models("qwen3"), rows, method="vanilla", guard={"model": "not/there"})


def test_rows_that_nobody_judges_need_no_guard(tmp_path, models):
    outputs = run_stage(vanilla(tmp_path, models))
    assert recall(vanilla(tmp_path, models)) == outputs


def test_what_cannot_be_noted_does_not_end_a_finished_stage(tmp_path, models, monkeypatch, caplog):
    def gone(*_):
        raise RuntimeError("the hub is gone")

    monkeypatch.setattr(finished, "_code", gone)
    outputs = run_stage(vanilla(tmp_path, models))
    assert outputs[0]["rows"] == 4 and "not noted" in caplog.text and "the hub is gone" in caplog.text
    assert not (tmp_path / "work" / FINISHED).exists() and recall(vanilla(tmp_path, models)) is None


def test_every_key_that_the_stage_reads_is_known(run, tmp_path, monkeypatch):
    """A key of Axolotl's that the stage began to read, and that is not noted, would serve stale rows."""
    asked = set()

    class Watched(DictDefault):
        def __getattribute__(self, name):
            if not name.startswith("_") and "base_model" in self:  # the entries within are of this class too
                asked.add(name)
            return super().__getattribute__(name)

        def __getitem__(self, name):
            if "base_model" in self:
                asked.add(name)
            return super().__getitem__(name)

    cfg = Watched(run.config().to_dict())
    monkeypatch.setattr(stage, "check_plan", lambda *_: None)  # reads what training needs, and decides no row
    shutil.rmtree(run.work)
    asked.clear()
    start = stage_helpers.scripted_by_prompt(run.model, stage_helpers.thinksafe_answer)
    run_stage(cfg, make_engine=start)
    known = {*KEYS, "safety", "datasets", "hf_use_auth_token"}
    assert set(KEYS) - {"seed"} <= asked  # the watch works
    assert asked - set(dir(DictDefault)) - known == set()
    assert run.outputs[0]["hash"] in (run.work / FINISHED).read_text()
