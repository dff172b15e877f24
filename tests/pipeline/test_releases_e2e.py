"""What Axolotl 0.20 and 0.21 brought, by their own commands: no `plugins:` line, another loss, a merge, an export."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from support import axolotl_cli as cli
from support import tiny

from axolotl_safety.util.releases import installed_plugins_load

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not installed_plugins_load(), reason="this Axolotl (before 0.21) loads the plugins that a YAML lists, no other"
    ),
]

# What differs between two runs of the same command, whatever is installed; and Axolotl's own word on each plugin.
_PASSING = re.compile(
    r"^[WIE]\d{4} \S+ \d+ |\d{4}-\d\d-\d\d[ T][\d:.,]+|\[\d\d:\d\d:\d\d[.,]?\d*\]|PID:\s*\d+"
    r"|\d+(\.\d+)? ?examples/s|\d+:\d\d"
)
_LOADING = ("Attempting to load plugin: axolotl_safety", "Plugin loaded successfully: axolotl_safety")


def said(output: str) -> list[str]:
    """The lines of a command's output without clocks, rates, progress, and rows that are shown at random."""
    lines = [_PASSING.sub("", line.rpartition("\r")[2]) for line in output.splitlines()]
    return [
        line
        for line in lines
        if not any(word in line for word in _LOADING) and "%|" not in line and "(-100, " not in line
    ]


def prepared(folder: Path) -> dict[str, str]:
    """Name and content of each file of Axolotl's prepared dataset."""
    # state.json holds a random fingerprint of datasets'.
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "state.json"]
    assert files
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_yaml_that_does_not_name_us_is_as_without_us(tmp_path, models):
    chat = [
        {"messages": [{"role": "user", "content": f"sort {index}"}, {"role": "assistant", "content": "done"}]}
        for index in range(8)
    ]
    rows = tiny.write_rows(tmp_path / "chat.jsonl", chat)
    config = cli.training_yaml(models("qwen3"), rows, tmp_path, seed=1)  # without one, Axolotl shuffles at random
    del config["plugins"], config["safety"]
    config["datasets"] = [{"path": str(rows), "type": "chat_template"}]
    seen = []
    for place, environ in enumerate(({"PYTHONPATH": cli.not_installed(tmp_path / "gone")}, {})):
        environ |= {"HF_DATASETS_CACHE": str(tmp_path / f"cache{place}")}  # or the second would not read the rows again
        code, output = cli.run("preprocess", config, tmp_path, **environ)
        assert code == 0, output[-3000:]
        assert ("load plugin: axolotl_safety" in output) is bool(place)
        seen.append((prepared(tmp_path / "prepared"), said(output)))
        (tmp_path / "prepared").rename(tmp_path / f"prepared-{len(seen)}")
    (without, quiet), (beside, output) = seen
    assert beside == without
    assert output == quiet


def test_the_type_alone_trains_and_merging_is_noted(tmp_path, models):
    rows = tiny.write_rows(tmp_path / "direct.jsonl", tiny.direct_refusal_rows(12))
    config = cli.training_yaml(models("qwen3"), rows, tmp_path, use_dft=True)
    del config["plugins"]
    code, output = cli.run("train", config, tmp_path)
    assert code == 0, output[-3000:]
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()
    (manifest,) = cli.manifests(tmp_path / "safety")
    assert manifest["funnel"]["trained"] == 12
    report = tmp_path / "safety" / "report.html"
    assert b"Merged models" not in report.read_bytes()

    code, output = cli.run("export", config, tmp_path)
    assert code != 0 and "axolotl merge-lora" in output
    code, output = cli.run("merge-lora", config, tmp_path, "--lora-model-dir", str(tmp_path / "model"))
    assert code == 0, output[-3000:]
    page = report.read_text()
    assert "Merged models" in page and str(tmp_path / "model" / "merged") in page
    assert f"{tmp_path / 'model'} on {models('qwen3')}" in page
