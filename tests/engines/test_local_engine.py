"""The client against a worker with the real protocol and no model: what dies, hangs, is refused or cancelled."""

import ast
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.engines import (
    WORKER,
    answers,
    child_environ,
    expected,
    fake_engine,
    finish_with_kills,
    is_running,
    many,
    request,
    score_request,
    wait_until,
)

from axolotl_safety.engines.base import Completion, EngineError, Failure, ModelSpec, Score
from axolotl_safety.engines.local import process
from axolotl_safety.engines.local.engine import WorkerEngine


def test_every_request_has_its_result_over_several_runs_on_one_child(tmp_path):
    with fake_engine(tmp_path) as engine:
        for _ in range(2):
            asked = many(50)
            results = answers(engine.run(iter(asked + [score_request("s")])))
            assert results.pop("s") == Score("s", -1.0, 2)
            assert results == {req.request_id: expected(req) for req in asked}
        assert list(engine.run([])) == []
    assert engine.figures.starts == 1 and len(engine.figures.pids) == 1
    assert 1e6 < engine.figures.peak_rss_bytes < 100e6 and engine.figures.seconds > 0
    assert not is_running(engine.figures.pids[0])
    engine.close()


def test_nothing_starts_without_a_request(tmp_path):
    with fake_engine(tmp_path) as engine:
        assert list(engine.run([])) == []
    assert engine.figures.starts == 0


def test_models_load_when_they_are_first_asked_for(tmp_path):
    models = {"target": ModelSpec("fine"), "guard0": ModelSpec("missing")}
    with fake_engine(tmp_path, models) as engine:
        assert len(list(engine.run(many(3)))) == 3
        message = r"loading the model 'guard0'.*missing: no such file(.|\n)*Check the path"
        with pytest.raises(EngineError, match=message):
            list(engine.run([request("g", model="guard0")]))
        assert not is_running(engine.figures.pids[0])
        assert len(list(engine.run(many(3)))) == 3  # a fresh child
        assert engine.figures.starts == 2


def test_an_unknown_model_is_named(tmp_path):
    with fake_engine(tmp_path) as engine, pytest.raises(EngineError, match=r"'gaurd0'.*\['target'\]"):
        list(engine.run([request("g", model="gaurd0")]))


def test_a_bad_item_fails_alone(tmp_path):
    bad = [request("empty", prompt=()), request("vocab", prompt=(5, 1000)), request("long", prompt=(1,) * 90, new=20)]
    bad += [request("none", new=0), request("hot", top_p=0.0), score_request("mute", response=())]
    with fake_engine(tmp_path) as engine:
        results = answers(engine.run(bad + many(10)))
    for req in bad:
        assert isinstance(results[req.request_id], Failure) and results[req.request_id].reason == "refused"
    assert "1000" in results["vocab"].message and "110" in results["long"].message
    assert sum(isinstance(result, Completion) for result in results.values()) == 10


def test_prints_of_libraries_do_not_reach_the_protocol(tmp_path):
    with fake_engine(tmp_path) as engine:
        assert isinstance(next(engine.run([request("print:1")])), Completion)
    assert "nonsense" in next((tmp_path / "logs").glob("engine-*.log")).read_text()


def test_a_log_that_the_disk_does_not_take_ends_no_child(tmp_path, monkeypatch):
    monkeypatch.setattr(WorkerEngine, "_log_path", lambda engine: Path("/dev/full"))
    asked = [request(f"print:{number}") for number in range(3)]
    with fake_engine(tmp_path) as engine:
        assert answers(engine.run(asked)) == {req.request_id: expected(req) for req in asked}
    assert engine.figures.starts == 1


def test_a_model_that_does_not_load_says_so_without_a_log_too(tmp_path, monkeypatch):
    monkeypatch.setattr(WorkerEngine, "_log_path", lambda engine: Path("/dev/full"))
    monkeypatch.setattr(process, "tail_of", lambda log_path: "")  # that device can be read without end
    with fake_engine(tmp_path, {"target": ModelSpec("missing")}) as engine:
        with pytest.raises(EngineError, match=r"missing: no such file(.|\n)*Check the path"):
            list(engine.run([request("a")]))


def test_a_log_that_cannot_be_made_is_the_disks_fault_and_not_the_interpreters(tmp_path, monkeypatch):
    def full(path, *arguments, **named):
        if "engine-" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return open(path, *arguments, **named)

    monkeypatch.setattr(process, "open", full, raising=False)
    with fake_engine(tmp_path) as engine, pytest.raises(OSError, match="No space left on device.*/logs/engine-"):
        list(engine.run([request("a")]))
    monkeypatch.undo()
    with fake_engine(tmp_path, python=str(tmp_path / "no python")) as engine:
        with pytest.raises(EngineError, match="Check the path of the engine's python interpreter"):
            list(engine.run([request("a")]))


def test_kill_9_in_the_middle_loses_and_repeats_nothing(tmp_path):
    with fake_engine(tmp_path) as engine:
        finish_with_kills(engine, many(120, new=20))
        assert engine.figures.starts == 3


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_poison_is_set_aside_at_its_second_time_and_the_rest_goes_on(tmp_path, fault):
    asked = many(40)
    poison = request(f"{fault}:me", new=5)
    with fake_engine(tmp_path, stall_seconds=3.0) as engine:
        results = answers(engine.run([*asked[:20], poison, *asked[20:]]))
        assert engine.figures.starts == 3
    verdict = results.pop(poison.request_id)
    assert isinstance(verdict, Failure) and verdict.reason == "poisoned"
    assert ("SIGKILL" if fault == "kill" else "silent") in verdict.message
    assert results == {req.request_id: expected(req) for req in asked}
    assert not any(map(is_running, engine.figures.pids))


def test_many_poisoned_requests_do_not_use_up_the_restarts(tmp_path):
    asked = [request(f"kill:{i}") for i in range(5)]
    with fake_engine(tmp_path, max_restarts=1) as engine:
        results = list(engine.run(asked))
    assert {result.reason for result in results} == {"poisoned"} and len(results) == 5


def test_a_child_that_always_dies_ends_the_run_with_its_log(tmp_path):
    with fake_engine(tmp_path, {"target": ModelSpec("stillborn")}, max_restarts=2) as engine:
        with pytest.raises(EngineError, match=r"3 times in a row.*exit code 3(.|\n)*engine-.*\.log(.|\n)*no reason"):
            list(engine.run(many(3)))
    assert engine.figures.starts == 3


def test_a_death_while_loading_is_final(tmp_path):
    with fake_engine(tmp_path, {"target": ModelSpec("die")}) as engine:
        with pytest.raises(EngineError, match=r"loading the model 'target' \(killed by SIGKILL\)"):
            list(engine.run(many(3)))
    assert engine.figures.starts == 1


def test_loading_has_its_own_patience(tmp_path):
    with fake_engine(tmp_path, {"target": ModelSpec("slow")}, stall_seconds=2.0) as engine:
        assert len(list(engine.run(many(3)))) == 3
    with fake_engine(tmp_path, {"target": ModelSpec("slow")}, load_seconds=2.0) as engine:
        with pytest.raises(EngineError, match="silent for 2 s while"):
            list(engine.run(many(3)))
    assert not is_running(engine.figures.pids[0])


def test_a_slow_reader_is_not_a_hung_child(tmp_path):
    with fake_engine(tmp_path, stall_seconds=2.0) as engine:
        for count, _ in enumerate(engine.run(many(30))):
            if count in (0, 29):
                time.sleep(2.6)
    assert engine.figures.starts == 1


def test_an_interpreter_that_is_not_there(tmp_path):
    engine = fake_engine(tmp_path, python="/nowhere/python")
    with pytest.raises(EngineError, match="/nowhere/python"):
        list(engine.run(many(1)))
    engine.close()


def test_a_worker_that_cannot_start_shows_its_log(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no torch here')")
    engine = fake_engine(tmp_path, worker_path=broken)
    with pytest.raises(EngineError, match=r"while starting \(exit code 1\)(.|\n)*no torch here"):
        list(engine.run(many(1)))


def test_an_abandoned_run_is_cancelled_and_the_child_serves_the_next(tmp_path):
    with fake_engine(tmp_path) as engine:
        quick = request("quick", prompt=(9,) * 80, new=1)
        run = engine.run([request(f"slow:{i}", new=50) for i in range(20)] + [quick])
        next(run)
        run.close()
        asked = many(5)
        assert answers(engine.run(asked)) == {req.request_id: expected(req) for req in asked}
        assert engine.figures.starts == 1


def test_close_ends_helpers_too(tmp_path):
    with fake_engine(tmp_path, {"target": ModelSpec("helper")}) as engine:
        list(engine.run(many(1)))
        log = next((tmp_path / "logs").glob("engine-*.log"))
        wait_until(lambda: log.read_text().strip(), 60)
        helper = int(log.read_text().split()[0])
        assert is_running(helper)
    assert not is_running(helper) and not is_running(engine.figures.pids[0])


PARENT = """
import sys
from pathlib import Path
from support.engines import fake_engine, request
engine = fake_engine(Path(sys.argv[1]))
for result in engine.run([request("quick", prompt=(1,) * 90, new=1), request(sys.argv[2], new=90)]):
    print(engine.figures.pids[0], flush=True)
"""


def start_parent(tmp_path, name):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), name],
        env=child_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize("name", ["slow:1", "hang:1"])
def test_a_killed_parent_leaves_no_orphan(tmp_path, name):
    parent, child = start_parent(tmp_path, name)
    assert is_running(child)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not is_running(child), 5)


def test_without_the_kernels_help_the_orphan_still_goes(tmp_path):
    code = PARENT.replace("engine = ", "import threading\nthreading.main_thread = lambda: None\nengine = ")
    command = [sys.executable, "-c", code, str(tmp_path), "hang:1"]
    parent = subprocess.Popen(command, env=child_environ(), stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert b"--die-with-parent" not in open(f"/proc/{child}/cmdline", "rb").read()
    parent.kill()
    parent.communicate()
    wait_until(lambda: not is_running(child), 5)


def test_ctrl_c_ends_both_promptly(tmp_path):
    parent, child = start_parent(tmp_path, "hang:1")
    started = time.monotonic()
    parent.send_signal(signal.SIGINT)
    _, stderr = parent.communicate(timeout=10)
    assert time.monotonic() - started < 3
    assert "KeyboardInterrupt" in stderr and parent.returncode != 0
    assert not is_running(child)


def test_leaving_without_close_ends_the_child(tmp_path):
    code = PARENT + "    break\n"
    command = [sys.executable, "-c", code, str(tmp_path), "slow:1"]
    done = subprocess.run(command, env=child_environ(), stdout=subprocess.PIPE, text=True, timeout=20)
    assert done.returncode == 0 and not is_running(int(done.stdout))


def test_the_client_imports_no_torch(tmp_path):
    code = "import sys, axolotl_safety.engines.local.engine; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=child_environ(), stdout=subprocess.PIPE, text=True)
    assert done.stdout.strip() == "[]"


def test_the_worker_imports_nothing_of_this_package_and_hides_no_library():
    own = {path.stem for path in WORKER.glob("*.py")}
    allowed = own | set(sys.stdlib_module_names) | {"torch", "numpy", "peft", "safetensors", "transformers"}
    allowed |= {"vllm", "psutil"}
    for path in WORKER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in imported} <= allowed, path
    assert not own & (set(sys.stdlib_module_names) | {"transformers", "torch", "numpy", "vllm", "tokenizers", "tests"})
