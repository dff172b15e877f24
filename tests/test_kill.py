"""SIGKILL at random moments of a real generation, Ctrl-C, a killed parent: nothing whole is lost, made again or changed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import axolotl_cli as cli
import pytest
import tiny

from axolotl_safety.journal import read_head

KILLS = 20
RUNNER = Path(__file__).with_name("stage_runner.py")


def write_config(folder: Path, model: Path, rows: int, max_new_tokens: int = 120) -> Path:
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


def start(config: Path, engine: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(RUNNER), str(config), engine],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


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


def kill_at_random(config: Path, work: Path, engine: str, dice: random.Random, delay: float) -> bool:
    """Start a run, kill it at a random moment after it has begun to write; whether it was still running."""
    process = start(config, engine)
    before = size_of(work)
    assert cli.wait_until(lambda: size_of(work) > before or process.poll() is not None, 120)
    time.sleep(dice.uniform(0, delay))
    running = process.poll() is None
    engines = [pid for pid in cli.processes_of(work) if pid != process.pid]
    victims = [process.pid] if dice.random() < 0.3 else [process.pid, *engines]  # now and then only the parent
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()
    assert cli.wait_until(lambda: not cli.processes_of(work), 5), "an engine outlived its parent by more than 5 s"
    return running


def finish(config: Path, engine: str) -> dict:
    process = start(config, engine)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-3000:]
    return json.loads(output.strip().splitlines()[-1])["0"]


@pytest.mark.timeout(1500)
def test_sigkill_at_random_moments_loses_doubles_and_repeats_nothing(tmp_path, models):
    config, work, dice = write_config(tmp_path, models("r1"), 900), tmp_path / "work", random.Random(11)
    held: dict[str, list[int]] = {}
    hits = 0
    while hits < KILLS:
        hits += kill_at_random(config, work, "real", dice, 0.4)
        now = sound_completions(work)
        assert held.items() <= now.items()
        held = now
        assert len(held) < 1800, "all was generated before the last kill: give the test more rows"
    output = finish(config, "real")
    final = sound_completions(work)
    assert held.items() <= final.items()
    (manifest,) = cli.manifests(work)
    assert manifest["counts"]["reused"] == len(held) and manifest["counts"]["generated"] == len(final) - len(held)
    assert manifest["funnel"]["asked"] == len(final)
    assert Path(output["train"]).is_dir()


@pytest.mark.timeout(900)
def test_after_kills_a_scripted_run_writes_the_bytes_of_an_undisturbed_one(tmp_path, models):
    quiet, noisy = tmp_path / "quiet", tmp_path / "noisy"
    for folder in (quiet, noisy):
        folder.mkdir()
    undisturbed = finish(write_config(quiet, models("r1"), 700), "scripted")
    config, dice, hits = write_config(noisy, models("r1"), 700), random.Random(12), 0
    while hits < KILLS:
        hits += kill_at_random(config, noisy / "work", "scripted", dice, 0.2)
    disturbed = finish(config, "scripted")
    assert disturbed["hash"] == undisturbed["hash"]
    trains = [sorted(Path(output["train"]).iterdir()) for output in (undisturbed, disturbed)]
    assert [path.name for path in trains[0]] == [path.name for path in trains[1]]
    assert [path.read_bytes() for path in trains[0]] == [path.read_bytes() for path in trains[1]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_within_seconds_and_says_how_to_resume(tmp_path, models, number):
    config, work = write_config(tmp_path, models("r1"), 300, 200), tmp_path / "work"
    process = start(config, "real")
    assert cli.wait_until(lambda: size_of(work) > 0, 120)
    process.send_signal(number)
    began = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == 130 and "axolotl train again.yml" in output
    assert not cli.processes_of(work)
    held = sound_completions(work)
    assert held and finish(config, "real")
    assert held.items() <= sound_completions(work).items()
