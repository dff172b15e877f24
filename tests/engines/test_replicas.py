"""Several children that share one queue: one of them is hit, the others go on, nothing is lost or doubled."""

import re
import signal
import subprocess
import sys
import time

import pytest
from support.engines import (
    answers,
    child_environ,
    expected,
    fake_engine,
    finish_with_kills,
    is_running,
    many,
    request,
    wait_until,
)

from axolotl_safety.engines.base import EngineError, Failure, ModelSpec

GPUS = (("0",), ("1",))  # no GPU is needed to hand its name to a child


def two_lanes(tmp_path, path="fine", **kw):
    return fake_engine(tmp_path, {"target": ModelSpec(path)}, replicas=2, devices=GPUS, **kw)


def served(tmp_path):
    """How many requests each GPU's child answered, by their own account; of those that came to a good end."""
    told = "".join(path.read_text() for path in (tmp_path / "logs").glob("engine-*.log"))
    return {gpu: int(count) for count, gpu in re.findall(r"served (\d+) on (\S+)", told)}


def test_two_children_share_the_queue_evenly_and_see_a_gpu_each(tmp_path):
    asked = many(200)
    with two_lanes(tmp_path) as engine:
        assert answers(engine.run(asked)) == {req.request_id: expected(req) for req in asked}
        assert engine.figures.starts == 2
    counts = served(tmp_path)
    assert sum(counts.values()) == 200 and min(counts["0"], counts["1"]) >= 60
    assert not any(map(is_running, engine.figures.pids))


def test_few_requests_are_spread_and_one_starts_one_child(tmp_path):
    with two_lanes(tmp_path) as engine:
        assert len(list(engine.run(many(1)))) == 1 and engine.figures.starts == 1
        assert len(list(engine.run(many(6)))) == 6 and engine.figures.starts == 2
    assert served(tmp_path) == {"0": 4, "1": 3}


def test_kill_9_of_one_child_at_a_time_loses_and_repeats_nothing(tmp_path):
    with two_lanes(tmp_path) as engine:
        finish_with_kills(engine, many(120, new=20))
        assert engine.figures.starts >= 3


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_poison_in_one_lane_does_not_stop_the_other(tmp_path, fault):
    asked, poison = many(150), request(f"{fault}:me", new=6)
    with two_lanes(tmp_path, stall_seconds=4.0) as engine:
        list(engine.run(many(2)))  # both are up
        started, times = time.monotonic(), {}
        results = []
        for result in engine.run([poison, *asked]):
            times[result.request_id] = time.monotonic() - started
            results.append(result)
        assert engine.figures.starts == 4  # the two, after the fault, and after the trial
    verdict = answers(results).pop(poison.request_id)
    assert isinstance(verdict, Failure) and verdict.reason == "poisoned"
    assert {r.request_id: r for r in results if r is not verdict} == {req.request_id: expected(req) for req in asked}
    if fault == "hang":
        # The hung child's window waits for the watchdog; all others are answered meanwhile.
        assert sum(seconds < 4.0 for seconds in times.values()) >= 150 - 4 * 4


def test_an_idle_child_is_not_a_hung_one(tmp_path):
    with two_lanes(tmp_path, stall_seconds=1.5) as engine:
        assert len(list(engine.run([request("slow:1", new=15), request("quick", new=1)]))) == 2
        time.sleep(1.6)
        assert len(list(engine.run(many(8)))) == 8
        assert engine.figures.starts == 2


@pytest.mark.parametrize("path", ["stillborn@1", "missing@1", "die@1"])
def test_a_lane_that_cannot_go_on_hands_its_requests_back(tmp_path, path, caplog):
    asked = many(80)
    with two_lanes(tmp_path, path, max_restarts=1) as engine:
        for _ in range(2):  # it stays given up in the next run
            assert answers(engine.run(asked)) == {req.request_id: expected(req) for req in asked}
            starts = engine.figures.starts
        assert starts == (3 if path == "stillborn@1" else 2)
    assert "1 of 2 go on" in caplog.text and served(tmp_path)["0"] == 160


@pytest.mark.parametrize(("path", "starts"), [("stillborn", 4), ("missing", 2), ("die", 2)])
def test_when_no_lane_is_left_the_run_ends_with_the_cause(tmp_path, path, starts):
    with two_lanes(tmp_path, path, max_restarts=1) as engine:
        cause = {"stillborn": "2 times in a row.*exit code 3", "missing": "no such file", "die": "killed by SIGKILL"}
        with pytest.raises(EngineError, match=cause[path]):
            list(engine.run(many(30)))
        assert engine.figures.starts == starts
        assert not any(map(is_running, engine.figures.pids))


PARENT = """
import sys
from pathlib import Path
from support.engines import fake_engine, request
engine = fake_engine(Path(sys.argv[1]), replicas=2)
for result in engine.run([request(f"quick{i}", prompt=(1,) * 90, new=1) for i in range(2)] +
                         [request(f"{sys.argv[2]}:{i}", new=90) for i in range(2)]):
    if len(engine.figures.pids) == 2:
        print(*engine.figures.pids, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_parent_that_is_killed_or_interrupted_leaves_no_child(tmp_path, number):
    command = [sys.executable, "-c", PARENT, str(tmp_path), "hang"]
    parent = subprocess.Popen(
        command, env=child_environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(is_running, pids))
    parent.send_signal(number)
    parent.communicate(timeout=10)
    wait_until(lambda: not any(map(is_running, pids)), 5)


def test_hung_children_are_ended_together(tmp_path):
    engine = two_lanes(tmp_path)
    run = engine.run([request(f"quick{i}", prompt=(1,) * 90, new=1) for i in range(4)] + [request("hang:1", new=9)] * 2)
    for _ in range(4):
        next(run)
    run.close()
    time.sleep(0.5)  # the hang begins
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 8  # 5 s of grace once, not once for each
    assert len(engine.figures.pids) == 2 and not any(map(is_running, engine.figures.pids))
