"""Lanes on a Ray of this machine: two actors that host the worker, hit in every way; nothing lost, doubled or left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support import axolotl_cli as cli
from support import tiny
from support.engines import FAKE_WORKER, Driven, answers, child_environ, expected, is_running, many, request, wait_until

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines import choose
from axolotl_safety.engines.base import EngineError, Failure, ModelSpec
from axolotl_safety.engines.local.engine import WorkerEngine
from axolotl_safety.engines.ray.child import shipped_files
from axolotl_safety.engines.ray.cluster import cluster_replicas, forwarded, ray_launcher
from axolotl_safety.util.errors import ConfigError

ray = pytest.importorskip("ray")

# Ray gives its own processes 15 s to come up, so none of them may have to compile what it imports.
QUICK = {"PYTHONDONTWRITEBYTECODE": "", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
DAEMONS = "ray.dashboard.agent, ray.dashboard.dashboard, ray._private.runtime_env.agent.main, ray._private.log_monitor"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The environment in which Ray starts: bytecode kept, and made beforehand."""
    before = dict(os.environ)
    os.environ |= QUICK
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
    subprocess.run([sys.executable, "-c", f"import {DAEMONS}"], check=True, timeout=200)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def cluster(quick):
    """A Ray that is there already, as in a training run of Axolotl's; the engine must leave it alone."""
    environ = {name: value for name, value in child_environ().items() if name in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES")}
    os.environ |= environ
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    yield
    ray.shutdown()


def engine_on_ray(tmp_path, path="fine", replicas=2, python=None, **kw):
    models = {"target": ModelSpec(path)}
    config = EngineConfig(backend="ray", replicas=replicas, python=python)
    launcher, replicas = ray_launcher(config, "transformers", models, FAKE_WORKER)
    kw = {"batch_size": 4, "stall_seconds": 20, "load_seconds": 300} | kw
    return Driven(WorkerEngine("transformers", tmp_path, models, replicas=replicas, launcher=launcher, **kw))


def actor_pids(workers):
    """The actors' own processes: the parents of the workers."""
    return [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in workers]


def kill_actor(engine, index):
    ray.kill(engine._replicas[index].child._actor)


def kill_actor_process(engine, index):
    os.kill(actor_pids([engine._replicas[index].child.pid])[0], signal.SIGKILL)


def kill_worker(engine, index):
    os.kill(engine._replicas[index].child.pid, signal.SIGKILL)


def test_two_actors_answer_everything_whatever_kills_one_of_them(cluster, tmp_path):
    asked = many(240, new=20)
    with engine_on_ray(tmp_path) as engine:
        assert len(list(engine.run(many(2)))) == 2 and engine.figures.starts == 2
        results, faults = [], {20: kill_actor, 80: kill_actor_process, 140: kill_worker}
        for result in engine.run(asked):
            results.append(result)
            if fault := faults.pop(len(results), None):
                fault(engine, len(faults) % 2)
        assert answers(results) == {req.request_id: expected(req) for req in asked}
        assert engine.figures.starts >= 5 and len(set(engine.figures.pids)) == engine.figures.starts
        alive = [pid for pid in engine.figures.pids if is_running(pid)]
        assert len(alive) == 2  # those that were hit left nothing
        actors = actor_pids(alive)
    wait_until(lambda: not any(map(is_running, engine.figures.pids + actors)), 10)
    assert ray.is_initialized()


def test_a_hung_worker_is_ended_through_its_actor_and_its_poison_set_aside(cluster, tmp_path):
    asked, poison = many(20), request("hang:me", new=6)
    with engine_on_ray(tmp_path, replicas=1, stall_seconds=4.0) as engine:
        list(engine.run(many(1)))
        results = answers(engine.run([poison, *asked]))
    verdict = results.pop("hang:me")
    assert isinstance(verdict, Failure) and verdict.reason == "poisoned" and "silent" in verdict.message
    assert results == {req.request_id: expected(req) for req in asked}
    assert engine.figures.starts == 3 and not any(map(is_running, engine.figures.pids))


def test_what_a_node_lacks_is_said_with_the_nodes_name(cluster, tmp_path):
    import socket

    with engine_on_ray(tmp_path, path="missing", replicas=1) as engine:
        with pytest.raises(EngineError, match=rf"on node {socket.gethostname()} failed while loading.*no such file"):
            list(engine.run(many(30)))
    with engine_on_ray(tmp_path, replicas=1, python="/no/such/python") as engine:
        with pytest.raises(EngineError, match=rf"on node {socket.gethostname()} ended while starting.*/no/such/python"):
            list(engine.run(many(30)))


def test_the_workers_log_comes_back(cluster, tmp_path):
    with engine_on_ray(tmp_path, path="stillborn", replicas=1, max_restarts=0) as engine:
        with pytest.raises(EngineError, match=r"exit code 3(.|\n)*about to die for no reason"):
            list(engine.run(many(30)))
    assert all("no reason" in log.read_text() for log in (tmp_path / "logs").glob("engine-*.log"))


def test_a_gpu_that_no_node_has_is_an_error_with_the_way_out(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("axolotl_safety.engines.ray.child._PLACE_SECONDS", 1.0)
    engine = engine_on_ray(tmp_path, replicas=1)
    engine._launcher.gpus = 1
    with engine, pytest.raises(EngineError, match=r"no node had room.*1 GPU\(s\).*axolotl preprocess"):
        list(engine.run(many(3)))


def test_a_stage_on_two_actors_makes_the_completions_of_one_process(cluster, tmp_path, models):
    """Draws depend on the seed and the request alone, so only float noise between batches may differ."""
    from support import tiny
    from support.stage import config

    from axolotl_safety.pipeline.stage import run_stage

    made = {}
    for backend in ("ray", "transformers"):
        engine = {"backend": backend, "batch_size": 8} | ({"replicas": 2} if backend == "ray" else {})
        (tmp_path / backend).mkdir()
        rows = tiny.direct_refusal_rows(16)
        dgr = {"retries": 0, "on_failure": "keep_original"}
        cfg = config(tmp_path / backend, models("r1"), rows, engine=engine, sampling={"max_new_tokens": 24}, dgr=dgr)
        run_stage(cfg)
        made[backend] = completions(tmp_path / backend / "work")
    spread, alone = made["ray"], made["transformers"]
    assert len(alone) >= 16 and spread.keys() == alone.keys()
    assert sum(spread[name] == ids for name, ids in alone.items()) >= 0.95 * len(alone)


def completions(work):
    """Token ids by request id, from the journal."""
    lines = [line for path in work.glob("journal/*.jsonl") for line in path.read_text().splitlines()]
    records = [record for record in map(json.loads, lines) if record["kind"] == "completion"]
    return {record["request_id"]: record["token_ids"] for record in records}


DRIVER = """
import sys
from pathlib import Path
from engines.test_ray import engine_on_ray, actor_pids
from support.engines import request
import ray
engine = engine_on_ray(Path(sys.argv[1]))
assert engine._launcher.ours
asked = [request(f"quick{i}", prompt=(1,) * 90, new=1) for i in range(4)]
for result in engine.run(asked):
    pass
if sys.argv[2] == "close":
    pids = engine.figures.pids + actor_pids(engine.figures.pids)
    engine.close()
    print(*pids, int(ray.is_initialized()), flush=True)
else:
    print(*engine.figures.pids, *actor_pids(engine.figures.pids), flush=True)
    list(engine.run([request(f"slow{i}:", new=90) for i in range(2)] + [request("hang:1", new=90)]))
"""


@pytest.mark.parametrize("way", ["kill", "close"])
def test_a_driver_that_ends_or_is_killed_leaves_no_process(quick, tmp_path, way):
    command = [sys.executable, "-c", DRIVER, str(tmp_path), way]
    driver = subprocess.Popen(command, env=child_environ(), stdout=subprocess.PIPE, text=True)
    line = driver.stdout.readline().split()
    if way == "close":
        assert line.pop() == "0"  # it shut down what it had started
    pids = [int(pid) for pid in line]
    assert len(pids) == 4
    if way == "kill":
        assert all(map(is_running, pids))
        time.sleep(0.5)
        driver.kill()
    driver.communicate(timeout=60)
    wait_until(lambda: not any(map(is_running, pids)), 20)


def test_axolotls_own_training_on_ray_runs_the_stage_in_its_worker(quick, tmp_path, models):
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.direct_refusal_rows(6))
    safety = {"work_dir": "./safety", "engine": {"backend": "transformers"}, "guard": {"model": "builtin"}}
    safety |= {"sampling": {"max_new_tokens": 60}, "dgr": {"retries": 0, "on_failure": "keep_original"}}
    ray_keys = {"use_ray": True, "ray_num_workers": 1, "resources_per_worker": {"CPU": 1}}
    config = cli.training_yaml(models("qwen3"), rows, tmp_path, safety=safety, **ray_keys)
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    program = [sys.executable, str(Path(__file__).parents[1] / "support" / "ray_train.py"), "config.yml"]
    done = subprocess.run(
        program, cwd=tmp_path, env=child_environ() | cli.OFFLINE | QUICK, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (manifest,) = cli.manifests(tmp_path / "safety")  # where the command was typed, not where Ray's worker runs
    assert manifest["counts"]["engine_starts"] == 1 and manifest["funnel"]["trained"] == 6
    assert f"Loading dataset: {tmp_path}/safety/datasets/{manifest['hash']}/train" in done.stdout + done.stderr
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()
    assert not cli.processes_of(tmp_path / "safety")


def test_what_an_actor_carries_along_suffices_on_a_node_that_has_only_python(tmp_path):
    for name, content in shipped_files().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import axolotl_safety.engines.ray.host as host; "
    code += "print(host.__file__)"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "axolotl_safety/engines/ray/host.py"), done.stderr


def test_replicas_follow_the_clusters_gpus():
    assert (
        cluster_replicas([8, 8, 0], 1) == 16 and cluster_replicas([8, 6], 4) == 3 and cluster_replicas([2, 2], 4) == 0
    )
    assert cluster_replicas([0, 0, 0], 1) == 3 and cluster_replicas([0], 2) == 1


def test_the_hubs_switches_go_along_and_secrets_do_not():
    environ = {"HF_HUB_OFFLINE": "1", "HF_TOKEN": "secret", "PATH": "/bin"}
    assert forwarded(environ) == {"HF_HUB_OFFLINE": "1"}


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "axolotl-safety\[ray\]"'):
        choose.choose_backend(EngineConfig(backend="ray"))
