"""What the command line sets is what is planned, evaluated and printed, by whichever way it came."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import click
import pytest
import yaml
from axolotl.cli.config_options import AXOLOTL_CONFIG_CLI_OPTIONS
from axolotl.utils.dict import DictDefault
from click.testing import CliRunner
from support import tiny

from axolotl_safety import SafetyPlugin
from axolotl_safety.commands.evaluate import after_training
from axolotl_safety.commands.evaluate.cli import main as evaluate_main
from axolotl_safety.commands.overrides import config_options, given
from axolotl_safety.commands.plan.cli import main as plan_main
from axolotl_safety.commands.report.cli import main as report_main
from axolotl_safety.config.command_line import command_line, override
from axolotl_safety.config.section import PLUGIN, section
from axolotl_safety.config.validate import prepare_config

WRITTEN = {"base_model": "A", "learning_rate": 1e-5, "bf16": True, "trl": {"beta": 0.1}, "plugins": [PLUGIN]}


def read(path: Path) -> DictDefault:
    cfg = DictDefault(yaml.safe_load(path.read_text()))
    cfg.axolotl_config_path = str(path)
    return cfg


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "my.yml"
    path.write_text(yaml.safe_dump(WRITTEN))
    return path


@pytest.mark.parametrize(
    ("given_options", "options"),
    [
        ([], []),
        (["--base-model", "B"], ["--base-model=B"]),
        (["--learning-rate", "0.001", "--bf16", "false"], ["--learning-rate=0.001", "--bf16=False"]),
        (["--no-load-in-8bit"], ["--no-load-in-8bit"]),
        (["--trl.beta", "0.2", "--seed", "7"], ["--seed=7", "--trl.beta=0.2"]),
        (["--lora-target-modules", "[q_proj, v_proj]"], ['--lora-target-modules=["q_proj", "v_proj"]']),
        (["--base-model", "A"], []),  # what the YAML says anyhow
        (["--output-dir", "with blank"], ["--output-dir=with blank"]),
    ],
)
def test_what_a_command_is_given_can_be_given_again(written, given_options, options):
    seen = []

    @click.command()
    @config_options
    def command(**overrides):
        seen.append(given(overrides))

    def config(arguments):
        assert CliRunner().invoke(command, arguments).exit_code == 0
        cfg = read(written)
        override(cfg, seen[-1])
        return cfg

    cfg = config(given_options)
    assert sorted(command_line(cfg)) == sorted(options)
    assert config(command_line(cfg)).to_dict() == cfg.to_dict()


def test_overrides_are_applied_as_axolotl_applies_them(written, monkeypatch):
    from axolotl.cli import config as axolotls

    def stop(cfg):
        raise KeyError(cfg)

    options = {"base_model": "B", "learning_rate": "1e-3", "micro_batch_size": "2", "trl__beta": "0.5", "seed": "none"}
    monkeypatch.setattr(axolotls, "prepare_plugins", stop)
    with pytest.raises(KeyError) as stopped:
        axolotls.load_cfg(str(written), **options)
    ours = read(written)
    override(ours, options)
    assert ours.to_dict() == stopped.value.args[0].to_dict()


def test_every_command_takes_them_and_shows_none_of_them():
    for command in (evaluate_main, plan_main, report_main):
        taken = {option.opts[0] for option in command.params}
        assert {names[0].split("/")[0] for names, *_ in AXOLOTL_CONFIG_CLI_OPTIONS} <= taken
        shown = CliRunner().invoke(command, ["--help"]).output
        assert "--base-model B" in shown and shown.count("\n") < 40


def test_the_section_keeps_them_where_register_is_called_again(written, tmp_path):
    cfg = read(written)
    cfg.base_model = "B"
    prepare_config(cfg)
    assert section(cfg).command_line == ("--base-model=B",)
    cfg.sequence_len = 512  # as validated: a Ray worker registers this one
    prepare_config(cfg)
    assert section(cfg).command_line == ("--base-model=B",)


def test_what_was_trained_is_what_is_evaluated_after_training(written, monkeypatch):
    cfg = read(written)
    cfg.base_model, cfg.output_dir = "B", "out"
    cfg.safety = {"eval": {"harm": ["x.jsonl"], "after_train": True}}
    prepare_config(cfg)
    calls = []
    monkeypatch.setattr(
        after_training.subprocess,
        "run",
        lambda command, **_: calls.append(command) or type("Ended", (), {"returncode": 0}),
    )
    after_training.evaluate_after_training(cfg)
    assert calls[0][3:] == [str(written), "--output-dir=out", "--base-model=B", "--model", "out"]


def test_an_interrupted_run_is_resumed_with_the_same_options(written, tmp_path, models, monkeypatch, caplog):
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.direct_refusal_rows(2))
    cfg = read(written)
    cfg.safety = {"work_dir": str(tmp_path / "work"), "guard": "builtin"}
    cfg.datasets = [DictDefault({"path": str(rows), "type": "axolotl_safety.vanilla", "ds_type": "json"})]
    cfg.base_model = str(models("qwen3"))
    prepare_config(cfg)

    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("axolotl_safety.pipeline.stage.run_stage", interrupted)
    with pytest.raises(SystemExit):
        SafetyPlugin().load_datasets(cfg, preprocess=True)
    assert shlex.join(["axolotl", "preprocess", str(written), f"--base-model={cfg.base_model}"]) in caplog.text
