"""Models that do not fit beside each other: items wait, nothing is lost, and a model changes only when it must."""

import gc
import json
import sys
import types
import weakref
from dataclasses import replace

import pytest
import torch
from support.engines import request, score_request, tiny_model

from axolotl_safety.engines.base import ScoreRequest
from axolotl_safety.engines.local.backlog import Backlog, Ledger
from axolotl_safety.engines.local.messages import encode, request_message

import transformers_backend  # isort: skip
import turns
import vllm_backend
from items import item_of
from loading import inspect_model
from protocol import LoadError

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(turns, "_WAIT_SECONDS", 0.0)


def item(number, one):
    return item_of(json.loads(encode(request_message(number, one))))


def served(backend, asked, then=lambda request: (), window=16):
    """Messages by request id, with the ledger of a real replica; ``then`` names what a finished request leads to.

    The worker hears of that one step late, as through its pipe.
    """
    backlog, told, results, requests, numbers = Backlog(), set(), {}, {}, iter(range(10**6))
    ledger = Ledger(backlog, window)

    def ask(one):
        number = next(numbers)
        requests[number] = one
        backlog.add(number, one)

    for one in asked:
        ask(one)
    late = []
    for _ in range(100_000):
        while (taken := ledger.next_to_send()) is not None:
            number, one = taken
            if one.model not in told:
                told.add(one.model)
                backend.load(one.model, {"path": one.model})
            backend.add(item(number, one))
        messages, late = late, backend.step() if backend.busy else []
        for message in messages:
            one = requests[message["id"]]
            assert ledger.finished(message["id"]) is one, "answered once"
            results[one.request_id] = message
            for follower in then(one):
                ask(follower)
        if len(results) == len(requests):
            return results
    raise AssertionError(f"{len(results)} of {len(requests)} answered")


def judged(one):
    """A target's completion goes to the guard, twice in a row; the guard's second verdict may ask the target again."""
    name, _, round_ = one.request_id.partition("/")
    if one.model == "target":
        return [request(f"{name}/a{round_}", one.prompt_token_ids, 2, "guard0")]
    if round_.startswith("a"):
        return [request(f"{name}/b{round_[1:]}", one.prompt_token_ids, 2, "guard0")]
    return [request(f"{name}/2", one.prompt_token_ids, 3)] if round_ == "b1" and int(name) % 5 == 0 else []


def rows(count):
    return [request(f"{i}/1", (3 + i % 90, 5, 7), 2 + i % 4) for i in range(count)]


class FakeServed:
    """What a model in vLLM looks like to the backend. It answers all that the child may have of it in one step, so that
    it is idle whenever the next ones are on their way."""

    def __init__(self, llm, max_num_seqs, chunk, send):
        self.waiting, self.active, self.tokens_drawn = [], 0, 0

    @property
    def busy(self):
        return bool(self.waiting)

    def add(self, item):
        self.waiting.append(item)

    def step(self):
        done, self.waiting = self.waiting, []
        return [{"type": "completion", "id": item.number} for item in done]

    def cancel(self):
        self.waiting = []


@pytest.fixture
def vllm(monkeypatch):
    """A backend with a vLLM that only counts what it starts, for models that must be alone."""
    started = []
    fake = types.SimpleNamespace(__version__="0.0", LLM=lambda model, **_: started.append(model))
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setitem(sys.modules, "vllm_model", types.SimpleNamespace(ServedModel=FakeServed))
    helper = types.SimpleNamespace(let_seeds_survive_chunks=lambda: None)
    monkeypatch.setitem(sys.modules, "vllm_cpu", helper)
    monkeypatch.setattr(vllm_backend, "set_environment", lambda *_: None)
    monkeypatch.setattr(vllm_backend, "arguments", lambda spec, *_: {"model": spec["path"], "max_num_seqs": 4})
    memory = {name: {"alone": True} for name in ("target", "guard0")}
    backend = vllm_backend.VllmBackend({"memory": memory}, None, lambda message: None)
    return backend, started


def test_in_vllm_a_model_keeps_its_turn_until_nothing_waits_for_it(vllm):
    backend, started = vllm
    results = served(backend, rows(200), judged)
    assert len(results) == 200 * 3 + 40 * 3
    # Every row's first completion, its verdicts, and once more for those that are asked again.
    assert started == ["target", "guard0", "target", "guard0"]


def test_what_a_result_brings_for_the_same_model_finds_it_still_loaded(vllm):
    backend, started = vllm
    for number, model in enumerate(("target", "guard0")):
        backend.load(model, {"path": model})
        backend.add(item(number, request(model, model=model)))
    assert [message["id"] for message in backend.step()] == [0]
    assert backend.step() == []  # it waits for a moment
    backend.add(item(2, request("next")))
    assert [message["id"] for message in backend.step()] == [2] and started == ["target"]
    done = [message["id"] for _ in range(3) for message in backend.step()]
    assert done == [1] and started == ["target", "guard0"] and not backend.busy


@pytest.fixture
def transformers(monkeypatch):
    """A backend on a device that holds the weights of so many models, or fewer beside rows; and what it loaded."""
    loads, alive, capacity = [], weakref.WeakSet(), {"models": 1, "beside_rows": 3}
    models = {"target": "qwen3", "guard0": "mistral", "guard1": "llama"}

    def load(spec):
        gc.collect()
        loads.append(spec["path"])
        at_work = any(model.active for model in backend._loaded.values())
        if len(alive) >= min(capacity["models"], capacity["beside_rows"] if at_work else 3):
            raise torch.OutOfMemoryError("CUDA out of memory")
        loaded = inspect_model(tiny_model(models[spec["path"]]), torch.device("cpu"))
        alive.add(loaded.model)
        return loaded

    monkeypatch.setattr(transformers_backend, "load", load)
    backend = transformers_backend.TransformersBackend(8, 1, lambda message: None)
    return backend, loads, capacity


def test_in_transformers_a_model_that_does_not_fit_beside_a_busy_one_waits_for_its_turn(transformers):
    backend, loads, capacity = transformers
    asked = [one for i, one in enumerate(rows(40)) for one in (one, score_request(f"s{i}", (5, 6), (7, 8)))]

    def then(one):
        return () if isinstance(one, ScoreRequest) else judged(one)

    def tokens(results):
        return {name: message.get("tokens") for name, message in results.items()}

    alone = served(backend, asked, then)
    assert len(alone) == 40 + 40 * 3 + 8 * 3 and {m["type"] for m in alone.values()} == {"completion", "score"}
    # The guard is tried beside the busy target, and again once the target's rows have given their memory back.
    assert loads == ["target", "guard0", "guard0", "guard0", "target", "guard0"]

    for beside_rows, wanted in ((3, ["target", "guard0"]), (1, ["target", "guard0", "guard0"])):
        capacity |= {"models": 2, "beside_rows": beside_rows}
        backend._unload()
        loads.clear()
        assert tokens(served(backend, asked, then)) == tokens(alone) and loads == wanted


def test_three_models_take_turns_in_the_order_in_which_their_items_came(transformers):
    backend, loads, _ = transformers
    asked = [replace(one, model=("target", "guard0", "guard1")[i % 3]) for i, one in enumerate(rows(60))]
    assert len(served(backend, asked)) == 60
    assert loads == ["target", "guard0", "guard1", "guard0", "guard1"], "a try beside the target, and a turn each"


def test_a_model_that_does_not_fit_alone_is_an_error_once_the_others_made_room(transformers):
    backend, loads, capacity = transformers
    backend.load("target", {"path": "target"})
    for number in range(3):
        backend.add(item(number, request(f"r{number}")))
    backend.step()
    backend.load("guard0", {"path": "guard0"})
    backend.add(item(9, request("g", model="guard0")))
    capacity["models"] = 0
    done = []
    with pytest.raises(LoadError, match="guard0: out of GPU memory") as caught:
        while backend.busy:
            done += backend.step()
    assert "bitsandbytes" in caught.value.hint
    assert {message["id"] for message in done} == {0, 1, 2}, "the target's rows came first"
    assert loads == ["target", "guard0", "guard0", "guard0"]


def test_a_row_that_has_no_memory_beside_another_model_gets_it_when_that_one_made_room(transformers, monkeypatch):
    backend, loads, capacity = transformers
    capacity["models"] = 2
    forward = type(inspect_model(tiny_model("qwen3"), torch.device("cpu"))).forward

    def failing(self, ids, *args, **kwargs):
        too_long = 30 if len(backend._loaded) > 1 else 60
        if ids.shape[1] >= too_long:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, ids, *args, **kwargs)

    monkeypatch.setattr("loading.Loaded.forward", failing)
    asked = [one for i in range(12) for one in (request(f"t{i}"), request(f"g{i}", model="guard0"))]
    asked += [request("long", (5,) * 40, model="guard0"), score_request("wide", (5,) * 40, (6, 7), "guard0")]
    asked += [request("too long", (5,) * 70, model="guard0"), request("after", model="guard0")]
    results = served(backend, asked)
    failed = {name for name, message in results.items() if message["type"] == "failure"}
    assert failed == {"too long"} and len(results) == 28
    assert loads == ["target", "guard0", "guard0"]
