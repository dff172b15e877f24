"""Once per launch: one rank works, the others see its word, its failure and its death within seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time

from axolotl_safety.pipeline.ranks import exclusive, launch_key

RANK = textwrap.dedent(
    """
    import json, os, sys, time
    from pathlib import Path
    from axolotl_safety.pipeline.ranks import once
    work_dir = Path(sys.argv[1])
    def work():
        with open(work_dir / "started", "a") as file:
            file.write(os.environ.get("RANK", "-"))
        time.sleep(float(sys.argv[2]))
        if sys.argv[3] == "fail":
            raise ValueError("no rows at all")
        return {"0": {"hash": "abc"}}
    print(json.dumps(once(work_dir, "what", work)))
    """
)


def start(work_dir, rank, seconds=1.5, mode="ok", world=2):
    launcher = {"TORCHELASTIC_RUN_ID": "run", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    environ = os.environ | launcher | {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    command = [sys.executable, "-c", RANK, str(work_dir), str(seconds), mode]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_one_rank_works_and_both_see_the_same(tmp_path):
    ranks = [start(tmp_path, rank) for rank in (1, 0)]
    words = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [json.loads(word) for word in words] == [{"0": {"hash": "abc"}}] * 2
    assert (tmp_path / "started").read_text() == "0"


def test_a_failure_reaches_the_other_rank_with_its_cause(tmp_path):
    follower, leader = start(tmp_path, 1, mode="fail"), start(tmp_path, 0, mode="fail")
    assert "no rows at all" in leader.communicate(timeout=60)[1] and leader.returncode
    failed = time.monotonic()
    assert "no rows at all" in follower.communicate(timeout=60)[1] and follower.returncode
    assert time.monotonic() - failed < 10


def test_a_killed_leader_is_noticed(tmp_path):
    follower, leader = start(tmp_path, 1, 60), start(tmp_path, 0, 60)
    while not (tmp_path / "started").exists():
        time.sleep(0.1)
    time.sleep(1)
    leader.kill()
    leader.wait()
    killed = time.monotonic()
    assert "died during the data stage" in follower.communicate(timeout=60)[1] and follower.returncode
    assert time.monotonic() - killed < 10


def test_two_runs_on_one_folder_take_turns(tmp_path):
    runs = [start(tmp_path, 0, 1.0, world=1) for _ in range(2)]
    began = time.monotonic()
    assert all(json.loads(run.communicate(timeout=60)[0]) for run in runs)
    assert time.monotonic() - began >= 2.0
    assert (tmp_path / "started").read_text() == "00"


def test_a_lock_left_by_a_killed_run_holds_nobody_up(tmp_path):
    holder = start(tmp_path, 0, 60, world=1)
    while not (tmp_path / "started").exists():
        time.sleep(0.1)
    holder.kill()
    holder.wait()
    began = time.monotonic()
    assert start(tmp_path, 0, 0.1, world=1).communicate(timeout=60)[0]
    assert time.monotonic() - began < 10


def test_launches_and_configurations_are_told_apart():
    environ = {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    assert launch_key(environ, "x") == launch_key(environ, "x") != launch_key(environ, "y")
    assert launch_key(environ, "x") != launch_key(environ | {"TORCHELASTIC_RUN_ID": "b"}, "x")


def test_what_killed_runs_were_writing_is_removed_once_it_is_old(tmp_path):
    folder = tmp_path / "datasets" / "abc"
    (folder / ".train.1.part").mkdir(parents=True)
    (folder / ".train.1.part" / "data.arrow").write_bytes(b"half")
    old, young = folder / ".rows.parquet.1.part", folder / ".rows.parquet.2.part"
    kept = folder / "rows.parquet"
    for path in (old, young, kept):
        path.write_bytes(b"half")
    long_ago = time.time() - 7200
    for path in (folder / ".train.1.part", old, kept):
        os.utime(path, (long_ago, long_ago))
    with exclusive(tmp_path):
        assert sorted(path.name for path in folder.iterdir()) == [young.name, kept.name]
