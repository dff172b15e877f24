"""What befalls the vLLM worker: killed, hung, poisoned, orphaned, told to make room."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from support.engines import child_environ, is_running, ragged_prompts, request, wait_until

from axolotl_safety.engines.base import Completion, Failure
from axolotl_safety.engines.local.process import group_is_alive

DYING = Path(__file__).parent / "dying_worker.py"


def test_killed_hung_and_poisoned_nothing_is_lost(make_engine, tmp_path):
    prompts = ragged_prompts(40, seed=3)
    asked = [request(f"r{i}", prompt, 20 + 2 * i, seed=1) for i, prompt in enumerate(prompts)]  # none end together
    poison = request("poison", (97, 97, 97), 5)
    strike = {10: signal.SIGKILL, 25: signal.SIGSTOP}
    with make_engine(tmp_path, worker_path=DYING, stall_seconds=10, load_seconds=300) as engine:
        results = {}
        for result in engine.run(asked):
            assert result.request_id not in results
            results[result.request_id] = result
            if len(results) in strike:
                os.kill(engine.figures.pids[-1], strike[len(results)])
        assert engine.figures.starts == 3
        assert all(isinstance(result, Completion) for result in results.values()) and len(results) == len(asked)

        after = {result.request_id: result for result in engine.run([*asked[:12], poison])}
        # Once among others and once alone: asked last, it is the last suspect, and nothing is left to start for.
        assert engine.figures.starts == 4
    verdict = after.pop("poison")
    assert isinstance(verdict, Failure) and verdict.reason == "poisoned"
    assert "device-side assert" in next(iter(sorted((tmp_path / "logs").glob("*-3.log")))).read_text()
    # The same draws, before and after every restart.
    assert all(results[name].token_ids == result.token_ids for name, result in after.items()) and len(after) == 12
    assert not any(map(is_running, engine.figures.pids))


PARENT = """
import sys
from pathlib import Path
from support.engines import Driven, request
from axolotl_safety.engines.base import ModelSpec
from axolotl_safety.engines.local.engine import WorkerEngine

python, work, target, guard = sys.argv[1:]
memory = {"kv_cache_memory_bytes": 64 << 20, "alone": True}
options = {"max_num_seqs": 4, "memory": {"target": memory, "guard0": memory}}
models = {"target": ModelSpec(target), "guard0": ModelSpec(guard)}
engine = Driven(WorkerEngine("vllm", work, models, batch_size=4, python=python, threads=1, options=options))
for model in ("target", "guard0"):
    print(len(list(engine.run([request(f"{model}{i}", new=5, temperature=0.0, model=model) for i in range(6)]))))
    print(engine.figures.pids[0], flush=True)
    sys.stdin.readline()
for result in engine.run([request(f"long{i}", new=200, temperature=0.0, model="guard0") for i in range(200)]):
    print("running", flush=True)
"""


def members(group):
    """Running processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return set(found)


def test_with_processes_of_its_own_one_model_makes_room_and_a_killed_parent_leaves_no_orphan(
    vllm_python, folders, tmp_path
):
    """As on a GPU, where vLLM puts each model into a process of its own."""
    arguments = [vllm_python, str(tmp_path), str(folders / "target"), str(folders / "guard0")]
    environ = child_environ() | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout.readline() == "6\n"
    group = int(parent.stdout.readline())
    first = members(group)
    assert len(first) >= 4  # worker, its keeper, vLLM's engine and vLLM's helper
    parent.stdin.write("go\n")
    parent.stdin.flush()
    assert parent.stdout.readline() == "6\n" and int(parent.stdout.readline()) == group
    second = members(group)
    assert len(second) == len(first) and len(first & second) < len(first), "the first model's processes are still there"
    parent.stdin.write("go\n")
    parent.stdin.flush()
    assert parent.stdout.readline() == "running\n"
    parent.kill()
    parent.communicate()
    started = time.monotonic()
    wait_until(lambda: not group_is_alive(group), 10)
    assert time.monotonic() - started < 10 and not members(group)
