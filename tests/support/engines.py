"""What the engine's tests share: tiny models, requests, a fake worker, and looking after processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import axolotl_safety.engines.local.engine as client_module
from axolotl_safety.engines.base import Completion, Engine, ModelSpec, Request, Result, Sampling, ScoreRequest
from axolotl_safety.engines.local.engine import WorkerEngine
from axolotl_safety.engines.queue import Found, Work, WorkQueue, gather

WORKER = Path(client_module.__file__).parents[1] / "worker"
FAKE_WORKER = Path(__file__).parent / "fake_worker.py"
if str(WORKER) not in sys.path:
    sys.path.append(str(WORKER))  # the worker's modules import each other by their plain names

ON_CPU = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}


def request(name: str, prompt=(1, 2, 3), new=4, model="target", temperature=1.0, seed=0, stop=(), **kw) -> Request:
    """A request with little to say."""
    sampling = Sampling(temperature, kw.pop("top_p", 1.0), kw.pop("top_k", 0), new)
    return Request(name, model, tuple(prompt), sampling, seed, tuple(stop))


def score_request(name: str, prompt=(1, 2), response=(3, 4), model="target") -> ScoreRequest:
    """A response to score."""
    return ScoreRequest(name, model, tuple(prompt), tuple(response))


class Driven:
    """An engine driven from ordinary code; whatever else it has is reached through."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str):
        return getattr(self.engine, name)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, requests: Iterable[Request | ScoreRequest]) -> Iterator[Result]:
        """One result per request, in the order they finish; closing it early gives up what is under way."""
        loop = self._loop
        given = tasks = {loop.create_task(self.engine.answer(one)) for one in requests}
        try:
            while tasks:
                done, tasks = loop.run_until_complete(asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))
                for task in done:
                    yield task.result()
        finally:
            for task in tasks:
                task.cancel()
            while left := asyncio.all_tasks(loop):
                loop.run_until_complete(asyncio.wait(left))
            for task in given:  # else asyncio logs each as never retrieved, whenever it is collected
                if not task.cancelled():
                    task.exception()

    def check(self) -> None:
        """Whether a server can be the engine."""
        self._loop.run_until_complete(self.engine.check())

    def close(self) -> None:
        """End it."""
        self._loop.run_until_complete(self.engine.close())


def finish(queue: WorkQueue, asked: Iterable[Work], kind: str = "completion", **named) -> list[Found]:
    """What a queue answers to all of these, asked at once; it is closed then."""

    async def work() -> list[Found]:
        async with queue:
            return await gather([queue.ask(one, kind, **named) for one in asked])

    return asyncio.run(work())


def fake_engine(tmp_path: Path, models=None, **kw) -> Driven:
    """An engine whose child has no model: it starts at once and does what the request ids say."""
    models = models or {"target": ModelSpec("fine")}
    kw = {"batch_size": 4, "stall_seconds": 20, "load_seconds": 20, "worker_path": FAKE_WORKER} | kw
    return Driven(WorkerEngine("transformers", tmp_path, models, **kw))


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, seconds: float) -> float:
    """Waits for a condition; returns the seconds it took, fails after ``seconds``."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not so within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - started


def child_environ() -> dict[str, str]:
    """The environment for a parent script: finds the package and the tests."""
    root = str(Path(__file__).parents[2])
    return {**os.environ, **ON_CPU, "PYTHONPATH": os.pathsep.join((root, str(Path(__file__).parents[1])))}


def tiny_model(kind: str, seed: int = 0, **overrides):
    """A random model of about 50k parameters, in eval mode. Its logits are far apart, so greedy has no ties."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {
        "vocab_size": 101,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    per_kind = {
        "mistral": {"sliding_window": 8},
        "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0},
        "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 8},
        "bloom": {"n_head": 4, "n_layer": 2},
        "gpt2": {"n_head": 4, "n_layer": 2, "n_embd": 32, "n_positions": 256},
        "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
        "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    }
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**common, **per_kind.get(kind, {}), **overrides})
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager" if kind in ("bloom", "gpt_oss") else "sdpa"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model.eval()


def ragged_prompts(count: int, longest: int = 30, vocabulary: int = 101, seed: int = 1) -> list[list[int]]:
    """Prompts of mixed lengths."""
    import random

    draw = random.Random(seed)
    return [[draw.randrange(3, vocabulary) for _ in range(draw.randint(1, longest))] for _ in range(count)]


def answers(results):
    """Results by request id; fails on a duplicate."""
    by_id = {}
    for result in results:
        assert result.request_id not in by_id, f"two results for {result.request_id}"
        by_id[result.request_id] = result
    return by_id


def expected(req):
    return Completion(req.request_id, (sum(req.prompt_token_ids),) * req.sampling.max_new_tokens, "length", -1.0)


def many(count, new=5):
    return [request(f"r{i}", prompt=(i % 90 + 1, 2), new=new) for i in range(count)]


def finish_with_kills(engine, asked):
    """Runs everything and kills a child that is alive, the newest, after the 10th and the 60th result."""
    results = []
    for result in engine.run(asked):
        results.append(result)
        if len(results) in (10, 60):
            os.kill(next(pid for pid in reversed(engine.figures.pids) if is_running(pid)), signal.SIGKILL)
    assert answers(results) == {req.request_id: expected(req) for req in asked}
