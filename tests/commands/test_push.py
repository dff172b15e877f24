"""The dataset card and the push: private, accepted rows alone, no folder of this machine, no token anywhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from support import tiny
from support.axolotl_cli import training_yaml
from support.report import hostile_stage
from support.stage import rows_of, scripted

from axolotl_safety.commands.report.card import source_licence
from axolotl_safety.commands.report.cli import main
from axolotl_safety.commands.report.push import push, write_dataset_folder
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import ConfigError

TOKEN = "hf_" + "x" * 30


@pytest.fixture(scope="module")
def finished(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("push")
    cfg, start = hostile_stage(folder, models("qwen3"))
    outputs = run_stage(cfg, make_engine=start)
    return Path(cfg.safety["work_dir"]), [row for output in outputs.values() for row in rows_of(output)]


class Hub:
    """Stands in for HfApi: remembers what it was asked, and what was in the folder at that time."""

    made: list[Hub] = []
    private = True
    licence: str | None = "apache-2.0"

    def __init__(self, token=None):
        self.token, self.calls, self.files = token, [], {}
        Hub.made.append(self)

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options))

    def repo_info(self, repo_id, **options):
        return SimpleNamespace(private=Hub.private)

    def dataset_info(self, name):
        if Hub.licence is None:
            raise OSError("offline")
        return SimpleNamespace(card_data={"license": Hub.licence})

    def upload_folder(self, *, repo_id, folder_path, **options):
        self.calls.append(("upload_folder", repo_id, options))
        self.files = {
            str(p.relative_to(folder_path)): p.read_bytes() for p in Path(folder_path).rglob("*") if p.is_file()
        }


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(Hub, "made", [])
    return Hub


def test_the_push_is_private_and_carries_accepted_rows_alone(finished, hub):
    work_dir, rows = finished
    assert push(work_dir, "me/safety") == "https://huggingface.co/datasets/me/safety"
    api = next(one for one in hub.made if one.calls)
    assert api.token == TOKEN
    assert [(name, repo) for name, repo, _ in api.calls] == [
        ("create_repo", "me/safety"),
        ("upload_folder", "me/safety"),
    ]
    assert api.calls[0][2] == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert set(api.files) == {"README.md", "data/train.parquet"}
    assert TOKEN.encode() not in b"".join(api.files.values())
    accepted = {row["row_id"] for row in rows if row["status"] == "accepted"}
    assert f"{len(accepted)} prompts".encode() in api.files["README.md"]


def test_a_public_repository_is_not_pushed_to_unless_asked(finished, hub, monkeypatch):
    monkeypatch.setattr(hub, "private", False)
    with pytest.raises(ConfigError, match="is public; nothing was pushed"):
        push(finished[0], "me/safety")
    assert not [name for api in hub.made for name, *_ in api.calls if name == "upload_folder"]
    push(finished[0], "me/safety", public=True)
    assert ("create_repo", "me/safety", {"repo_type": "dataset", "private": False, "exist_ok": True}) in hub.made[
        -1
    ].calls


@pytest.mark.parametrize("name", ["nobody", "a/b/c", "../up", "me/sa fety"])
def test_without_a_token_or_a_name_nothing_is_asked(finished, hub, monkeypatch, name):
    with pytest.raises(ConfigError, match="owner/name"):
        push(finished[0], name)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="HF_TOKEN is not set"):
        push(finished[0], "me/safety")
    assert not [api for api in hub.made if api.calls]


def test_the_folder_holds_the_models_own_rows_and_a_card_that_reads_as_yaml(finished, tmp_path):
    work_dir, rows = finished
    folder = write_dataset_folder(work_dir, tmp_path / "out")
    table = pq.read_table(folder / "data" / "train.parquet").to_pylist()
    kept = [row for row in rows if row["status"] == "accepted"]
    assert [(row["row_id"], row["answer"], row["response_token_ids"]) for row in table] == [
        (row["row_id"], row["answer"], row["response_token_ids"]) for row in kept
    ]
    assert {row["source"] for row in table} == {"harmful.jsonl", "benign.jsonl"}
    assert str(tmp_path.parent) not in str(table) and "reference_answer" not in table[0]
    card = (folder / "README.md").read_text()
    assert str(tmp_path.parent) not in card and "/tmp" not in card and "<script" not in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "unknown" and front["size_categories"] == ["n<1K"]
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train.parquet"}]
    assert huggingface_hub.DatasetCard(card).data.tags[:2] == ["safety", "reasoning"]
    assert "(heuristic: looks for refusals" in card and "unknown: check harmful.jsonl" in card and "2602.02136" in card
    assert "not_refused" in card and "temperature 0.6" in card
    with pytest.raises(ConfigError, match="not empty"):
        write_dataset_folder(work_dir, folder)


def test_a_licence_is_taken_from_the_hub_or_called_unknown(hub, monkeypatch):
    assert source_licence("UWNSL/SafeChain") == "apache-2.0"
    monkeypatch.setattr(hub, "licence", None)
    assert source_licence("UWNSL/SafeChain") == "unknown" == source_licence("/some/file.jsonl")


def test_the_command_rebuilds_report_and_folder_and_generates_nothing(tmp_path, models):
    from axolotl.cli.config import load_cfg

    model = models("qwen3")
    path = tmp_path / "run.yml"
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.direct_refusal_rows(12))
    path.write_text(yaml.safe_dump(training_yaml(model, rows, tmp_path)))
    empty = CliRunner().invoke(main, [str(path)])
    assert empty.exit_code == 1 and "axolotl preprocess" in empty.output
    start, engines = scripted(model, "qwen3")
    run_stage(load_cfg(str(path)), make_engine=start)
    assert len(engines) == 1
    training_log = tmp_path / "model" / "debug.log"
    assert training_log.parent == Path(load_cfg(str(path)).output_dir)
    training_log.write_text("the training's own\n")
    report, folder = tmp_path / "out.html", tmp_path / "card"
    done = CliRunner().invoke(main, [str(path), "--out", str(report), "--no-text", "--card-only", str(folder)])
    assert done.exit_code == 0, done.output
    assert "jinx" not in report.read_text() and (folder / "README.md").is_file()
    first = CliRunner().invoke(main, [str(path)])
    assert training_log.read_text().startswith("the training's own\n")  # Axolotl's load_cfg would empty it
    assert first.exit_code == 0 and "jinx" in (tmp_path / "safety" / "report.html").read_text()
    assert CliRunner().invoke(main, [str(path), "--public"]).exit_code == 2
