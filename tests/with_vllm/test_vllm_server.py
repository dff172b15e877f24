"""The engine behind a real vLLM server on the CPU: the same tokens, log-probabilities and acceptance as here.

Runs where AXOLOTL_SAFETY_VLLM_PYTHON names an interpreter that has vLLM. A server takes about a minute to start.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from axolotl.utils.dict import DictDefault
from support.engines import Driven, finish
from support.stage import manifest_of
from transformers import AutoTokenizer

from axolotl_safety.config import EngineConfig
from axolotl_safety.config.validate import prepare_config
from axolotl_safety.engines.base import ModelSpec, Request, Sampling, ScoreRequest
from axolotl_safety.engines.http.flow import RetryPolicy
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.local.engine import WorkerEngine
from axolotl_safety.engines.openai.engine import ServerEngine, server_of
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import StageError

PYTHON = os.environ.get("AXOLOTL_SAFETY_VLLM_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="AXOLOTL_SAFETY_VLLM_PYTHON is not set")

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples/lab/model"
STOP = 1533  # the lab tokenizer's end of turn
_START_SECONDS = 400
# Chunked prefill with a seed per request ends vLLM's CPU engine ("CPU Generator does not use offset").
FLAGS = "--dtype float32 --enforce-eager --no-enable-chunked-prefill --max-num-batched-tokens 2048 --max-model-len 2048"
ENVIRON = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


class Vllm:
    """A vLLM server in a process group of its own."""

    def __init__(self, log: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), *FLAGS.split()]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", "lab"]
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | ENVIRON
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/v1/models", timeout=5).read()
                return
            except OSError:
                ended = self.process.poll() is not None
                assert not ended and time.monotonic() < deadline, self.log.read_text()[-3000:]
                time.sleep(0.5)

    def kill(self) -> None:
        """End the server and its workers at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    server = Vllm(tmp_path_factory.mktemp("vllm") / "server.log")
    yield server
    server.kill()


def engine(url: str, attempts: int = 5, concurrency: int = 64) -> Driven:
    config = EngineConfig(backend="openai", base_url=url, model="lab", concurrency=concurrency)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return Driven(ServerEngine(server_of(config, "lab"), tokenizer, RetryPolicy(attempts, 0.1)))


def requests(count: int, temperature: float, new: int = 160, stop: tuple[int, ...] = (STOP,)) -> list[Request]:
    """The lab's questions, every fourth with a limit that its answer does not keep to."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = (ROOT / "examples/lab/data/eval/dev/math.jsonl").read_text().splitlines()[:count]
    made = []
    for place, row in enumerate(rows):
        message = [{"role": "user", "content": json.loads(row)["prompt"]}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        prompt = tuple(tokenizer.encode(text, add_special_tokens=False))
        sampling = Sampling(temperature, 1.0, 0, new if place % 4 else 8)
        made.append(Request(f"r{place}", "target", prompt, sampling, 5, stop))
    return made


def test_greedy_completions_and_scores_are_those_of_the_worker(vllm, tmp_path):
    asked = requests(24, 0.0)
    models = {"target": ModelSpec(str(MODEL), dtype="float32")}
    with Driven(WorkerEngine("transformers", tmp_path, models, 24)) as here:
        ours = {result.request_id: result for result in here.run(asked)}
        scoring = [
            ScoreRequest(f"s{one.request_id}", "target", one.prompt_token_ids, ours[one.request_id].token_ids)
            for one in asked
        ]
        scores = {result.request_id: result for result in here.run(scoring)}
    there = engine(vllm.url)
    theirs = {result.request_id: result for result in there.run(asked)}
    for name, said in ours.items():
        assert (theirs[name].token_ids, theirs[name].finish_reason) == (said.token_ids, said.finish_reason)
        assert theirs[name].logprob == pytest.approx(said.logprob, abs=1e-3)
    assert {said.finish_reason for said in ours.values()} == {"stop", "length"}
    for result in there.run(scoring):
        assert result.num_tokens == scores[result.request_id].num_tokens
        assert result.logprob == pytest.approx(scores[result.request_id].logprob, abs=1e-3)
    assert there.figures.server["version"] and there.figures.server["max_model_len"] == 2048


def test_a_draw_depends_on_the_request_alone(vllm):
    asked = requests(24, 1.0)
    first = {result.request_id: result for result in engine(vllm.url).run(asked)}
    second = {result.request_id: result for result in engine(vllm.url, concurrency=3).run(reversed(asked))}
    assert {name: said.token_ids for name, said in first.items()} == {
        name: said.token_ids for name, said in second.items()
    }
    scored = engine(vllm.url).run(
        [ScoreRequest(one.request_id, "target", one.prompt_token_ids, first[one.request_id].token_ids) for one in asked]
    )
    for score in scored:  # what is sampled at temperature 1 is reported before truncation
        assert score.logprob == pytest.approx(first[score.request_id].logprob, abs=1e-3)


def thinksafe(tmp_path: Path, **engine: object) -> float:
    """Share of the lab's rows that ThinkSafe accepts."""
    cfg = DictDefault(yaml.safe_load((ROOT / "yaml/lab_thinksafe.yml").read_text()))
    cfg.base_model = str(MODEL)
    cfg.safety.guard.model = str(ROOT / "examples/lab/guard")
    cfg.safety.work_dir = str(tmp_path / str(engine["backend"]))
    cfg.safety.engine = engine
    cfg.safety.max_rows = 200
    cfg.datasets[0].path = str(ROOT / "examples/lab/data/safechain.jsonl")
    prepare_config(cfg)
    output = run_stage(DictDefault(cfg.to_dict()))[0]
    funnel = manifest_of(output)["funnel"]
    return output["rows"] / funnel["taken"]


def test_the_laboratory_accepts_as_many_rows_as_with_transformers(vllm, tmp_path):
    here = thinksafe(tmp_path, backend="transformers")
    there = thinksafe(tmp_path, backend="openai", base_url=vllm.url, model="lab")
    print(f"accepted: transformers {here:.3f}, server {there:.3f}")
    assert here > 0.5 and abs(here - there) < 0.05


def test_a_server_that_is_killed_and_comes_back_loses_nothing_and_repeats_nothing(vllm, tmp_path):
    asked, arrived = requests(48, 1.0, 200, stop=()), []

    class Queue(WorkQueue):
        """Kills the server after so many results."""

        kill_after = -1

        def _store(self, request: Request, *rest: object) -> None:
            super()._store(request, *rest)
            arrived.append(request.request_id)
            if len(arrived) == self.kill_after:
                vllm.kill()

    def queue() -> Queue:
        return Queue({"target": Journal(tmp_path / "j.jsonl")}, lambda: engine(vllm.url, 3, concurrency=6).engine)

    hit = queue()
    hit.kill_after = 10
    with pytest.raises(StageError, match="does not answer after 3 tries"):
        finish(hit, asked)
    before = (tmp_path / "j.jsonl").read_bytes()
    done = before.count(b'"kind":"completion"')
    assert 10 <= done < 48 and done == len(arrived)
    vllm.start()
    whole = queue()
    finish(whole, asked)
    assert (tmp_path / "j.jsonl").read_bytes().startswith(before)
    assert sorted(arrived) == sorted(one.request_id for one in asked), "each came once"
    assert len(whole.generated) == 48 - done and len(whole.reused) == done
