"""SIGKILL at random moments of a real generation, Ctrl-C, a killed parent: nothing whole is lost or made again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import axolotl_cli as cli
from support import evaluation as helpers
from support import tiny

from axolotl_safety.engines.journal import read_head

# `make torture` has a hundred instants more. A start of the real engine costs 15 CPU seconds of imports.
KILLS, REAL_KILLS = 10, 6
RUNNER = Path(__file__).parents[1] / "support" / "stage_runner.py"


def write_config(folder: Path, model: Path, rows: int, max_new_tokens: int = 30) -> Path:
    config = {
        "base_model": str(model),
        "sequence_len": 400,
        "datasets": [
            {
                "path": str(tiny.write_rows(folder / "rows.jsonl", tiny.direct_refusal_rows(rows))),
                "type": "axolotl_safety.dgr",
            }
        ],
        "safety": {
            "work_dir": str(folder / "work"),
            "guard": {"model": "builtin"},
            "engine": {"backend": "transformers", "batch_size": 16},
            "sampling": {"max_new_tokens": max_new_tokens},
            "dgr": {"retries": 1, "on_failure": "keep_original"},
        },
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


class Runs:
    """Starts and awaits runs through the forking runner."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.count = 0
        self.server = subprocess.Popen(
            [sys.executable, str(RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(RUNNER.parents[1])},
        )

    def ask(self, *words: object) -> int:
        self.server.stdin.write(" ".join(map(str, words)) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, config: Path, engine: str) -> tuple[int, Path]:
        self.count += 1
        output = self.folder / f"run{self.count}.log"
        return self.ask("start", config, engine, output), output

    def wait(self, pid: int) -> int:
        return self.ask("wait", pid)

    def finish(self, config: Path, engine: str) -> dict:
        pid, output = self.start(config, engine)
        assert self.wait(pid) == 0, output.read_text()[-3000:]
        return json.loads(output.read_text().strip().splitlines()[-1])["0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("runs"))
    yield made
    made.server.stdin.close()
    made.server.wait(30)


def sound_completions(work: Path) -> dict[str, list[int]]:
    """Completions that stand whole in the journal; each id must stand there once."""
    found: dict[str, list[int]] = {}
    for path in work.glob("journal/*.jsonl"):
        for line in path.read_bytes().split(b"\n"):
            if read_head(line) and (record := json.loads(line))["kind"] == "completion":
                assert record["request_id"] not in found
                found[record["request_id"]] = record["token_ids"]
    return found


def size_of(work: Path) -> int:
    return sum(path.stat().st_size for path in work.glob("journal/*.jsonl"))


def ended(pid: int) -> bool:
    """Whether a forked run is gone or waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def kill_at_random(runs: Runs, config: Path, work: Path, engine: str, dice: random.Random, delay: float) -> bool:
    """Start a run, kill it at a random moment after it has begun to write; whether it was still running."""
    before = size_of(work)
    pid, _ = runs.start(config, engine)
    assert cli.wait_until(lambda: size_of(work) > before or ended(pid), 120)
    time.sleep(dice.uniform(0, delay))
    running = not ended(pid)
    # Now and then only the parent: the engine must then go by itself.
    victims = [pid] if dice.random() < 0.3 else [pid, *cli.processes_of(work)]
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
    runs.wait(pid)
    assert cli.wait_until(lambda: not cli.processes_of(work), 5), "an engine outlived its parent by more than 5 s"
    return running


@pytest.mark.timeout(1500)
def test_sigkill_at_random_moments_loses_doubles_and_repeats_nothing(tmp_path, models, runs):
    config, work, dice = write_config(tmp_path, models("r1"), 450), tmp_path / "work", random.Random(11)
    held: dict[str, list[int]] = {}
    hits = 0
    while hits < REAL_KILLS:
        hits += kill_at_random(runs, config, work, "real", dice, 0.4)
        now = sound_completions(work)
        assert held.items() <= now.items()
        held = now
        assert len(held) < 900, "all was generated before the last kill: give the test more rows"
    output = runs.finish(config, "real")
    final = sound_completions(work)
    assert held.items() <= final.items()
    (manifest,) = cli.manifests(work)
    assert manifest["counts"]["reused"] == len(held) and manifest["counts"]["generated"] == len(final) - len(held)
    assert manifest["funnel"]["asked"] == len(final)
    assert Path(output["train"]).is_dir()


@pytest.mark.timeout(900)
def test_after_kills_a_scripted_run_writes_the_bytes_of_an_undisturbed_one(tmp_path, models, runs):
    quiet, noisy = tmp_path / "quiet", tmp_path / "noisy"
    for folder in (quiet, noisy):
        folder.mkdir()
    undisturbed = runs.finish(write_config(quiet, models("r1"), 400), "scripted")
    config, dice, hits = write_config(noisy, models("r1"), 400), random.Random(12), 0
    while hits < KILLS:
        hits += kill_at_random(runs, config, noisy / "work", "scripted", dice, 0.2)
    disturbed = runs.finish(config, "scripted")
    assert disturbed["hash"] == undisturbed["hash"]
    trains = [sorted(Path(output["train"]).iterdir()) for output in (undisturbed, disturbed)]
    assert [path.name for path in trains[0]] == [path.name for path in trains[1]]
    assert [path.read_bytes() for path in trains[0]] == [path.read_bytes() for path in trains[1]]


@pytest.mark.timeout(900)
def test_after_kills_an_evaluation_repeats_nothing_and_writes_the_same_bytes(tmp_path, models, runs):
    configs = []
    for name in ("quiet", "noisy"):
        folder = tmp_path / name
        folder.mkdir()
        sets = helpers.write_sets(tmp_path / "sets", 150, 50, 100) | {"samples": 2}
        section = {"work_dir": str(folder / "work"), "guard": {"model": "builtin"}, "eval": sets}
        config = {"base_model": str(models("r1")), "sequence_len": 400, "datasets": [], "safety": section}
        config["output_dir"] = str(helpers.adapter_folder(tmp_path / "tuned", models("r1")))
        configs.append(folder / "config.json")
        configs[-1].write_text(json.dumps(config))
    undisturbed = runs.finish(configs[0], "evaluate")
    assert undisturbed["asked"] == 800
    work, dice = tmp_path / "noisy" / "work", random.Random(13)
    held: dict[str, list[int]] = {}
    for _ in range(4):
        assert kill_at_random(runs, configs[1], work, "evaluate", dice, 0.4)
        now = sound_completions(work)
        assert held.items() <= now.items() and len(now) > len(held)
        held = now
    disturbed = runs.finish(configs[1], "evaluate")
    assert 0 < len(held) < 800 and disturbed["asked"] == 800 - len(held)
    folders = [Path(one["folder"]) for one in (undisturbed, disturbed)]
    for name in ("results.json", "items.parquet"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_within_seconds_and_says_how_to_resume(tmp_path, models, runs, number):
    config, work = write_config(tmp_path, models("r1"), 80, 60), tmp_path / "work"
    pid, output = runs.start(config, "real")
    assert cli.wait_until(lambda: size_of(work) > 0, 120)
    os.kill(pid, number)
    began = time.monotonic()
    code = runs.wait(pid)
    assert time.monotonic() - began < 5
    assert code == 130 and "axolotl train again.yml" in output.read_text()
    assert not cli.processes_of(work)
    held = sound_completions(work)
    assert held and runs.finish(config, "real")
    assert held.items() <= sound_completions(work).items()
