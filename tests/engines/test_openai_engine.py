"""An engine behind a server: token ids both ways, checked first, waited for, ended clearly, resumed."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from support.engines import Driven, request, score_request
from support.engines import finish as finish_queue
from support.fake_server import FakeServer, FakeVllm

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.base import Completion, Failure, Score
from axolotl_safety.engines.http.flow import RetryPolicy
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.openai.engine import ServerEngine, server_of
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.util.errors import ConfigError, StageError

KEY = "sk-very-secret-0123456789"
LISTED = {"data": [{"id": "m", "root": "/models/m", "max_model_len": 64, "owned_by": "vllm"}]}
PROBES = 2


class Tokenizer:
    """A byte is a token."""

    eos_token = "$"

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(text.encode()[:16])


@pytest.fixture
def serve():
    servers: list[FakeServer] = []

    def start(fault: Any = None, models: Any = (200, LISTED), model: FakeVllm | None = None, **options: Any):
        """A server whose answers ``fault(body, times, choice)`` may replace."""
        made = model or FakeVllm()

        def reply(body, times):
            choice = made.choice(body)
            replaced = fault(body, times, choice) if fault else None
            return replaced or (200, {"choices": [choice]}, {})

        others = {"/version": lambda _: (200, {"version": "0.32.0"})} | options.pop("others", {})
        servers.append(FakeServer(reply, models, lambda body: body, others, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def engine(url: str, tokenizer: Any = None, attempts: int = 3, **config: Any) -> Driven:
    settings = EngineConfig(**{"backend": "openai", "base_url": url, "model": "m"} | config)
    return Driven(ServerEngine(server_of(settings, "base"), tokenizer, RetryPolicy(attempts, 0.02)))


def by_id(results: Any) -> dict[str, Any]:
    return {result.request_id: result for result in results}


def asked_of(server: FakeServer) -> list[tuple[int, ...]]:
    """The prompts that came after the probes."""
    return [tuple(body["prompt"]) for body in server.bodies[PROBES:]]


def test_a_completion_comes_token_for_token_with_its_logprob(serve):
    server, model = serve(), FakeVllm()
    asked = [request(f"r{i}", (1, 2, i), 12, seed=7, stop=(0, 1, 2, 3, 4), top_k=5, top_p=0.9) for i in range(40)]
    found = by_id(engine(server.url).run(asked))
    assert set(found) == {one.request_id for one in asked}
    for one in asked:
        said = found[one.request_id]
        stopped = said.token_ids[-1] in one.stop_token_ids
        assert said.finish_reason == ("stop" if stopped else "length") and (stopped or len(said.token_ids) == 12)
        whole = one.prompt_token_ids + said.token_ids
        expected = sum(model.logprob(whole[:at], whole[at]) for at in range(3, len(whole)))
        assert said.logprob == pytest.approx(expected, abs=1e-12)
    assert {said.finish_reason for said in found.values()} == {"stop", "length"}
    again = by_id(engine(server.url, concurrency=1).run(reversed(asked)))
    assert again == found, "a draw depends on the request alone"
    other = by_id(engine(server.url).run([replace(one, seed=8) for one in asked]))
    assert other != found
    body = server.bodies[PROBES]
    assert body["model"] == "m" and body["ignore_eos"] and not body["skip_special_tokens"] and body["top_k"] == 5
    assert body["repetition_penalty"] == 1 and body["top_p"] == 0.9 and 0 <= body["seed"] < 2**63
    list(engine(server.url).run([request("greedy", temperature=0.0)]))
    assert "seed" not in server.bodies[-1]
    assert len({body["seed"] for body in server.bodies[PROBES : PROBES + 40]}) == 40


def test_a_score_is_the_sum_over_the_response(serve):
    server, model = serve(), FakeVllm()
    (found,) = engine(server.url).run([score_request("s", (9, 8, 7), (6, 5, 4))])
    whole = (9, 8, 7, 6, 5, 4)
    assert found.num_tokens == 3
    assert found.logprob == pytest.approx(sum(model.logprob(whole[:at], whole[at]) for at in (3, 4, 5)), abs=1e-12)
    assert server.bodies[-1]["max_tokens"] == 1 and server.bodies[-1]["prompt"] == list(whole)


def test_a_score_at_another_temperature_and_an_empty_one_are_refused_and_not_sent(serve):
    server = serve()
    wrong = [replace(score_request("warm"), temperature=0.7), score_request("empty", response=())]
    found = by_id(engine(server.url).run([*wrong, score_request("fine")]))
    assert {name: type(result) for name, result in found.items()} == {"warm": Failure, "empty": Failure, "fine": Score}
    assert len(asked_of(server)) == 1


def test_what_the_server_says_of_itself_is_kept(serve):
    one = engine(serve().url)
    list(one.run([request("r")]))
    one.close()
    assert one.figures.server == {"model": "m", "root": "/models/m", "max_model_len": 64, "version": "0.32.0"}
    assert one.figures.seconds > 0 and one.figures.pids == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda choice: choice.pop("token_ids"), "no token ids"),
        (lambda choice: choice.update(token_ids=["a"]), "no token ids"),
        (lambda choice: choice.update(logprobs=None), "no log-probability per token"),
        (lambda choice: choice["logprobs"]["token_logprobs"].pop(), "no log-probability per token"),
        (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, None), "is no number"),
        (lambda choice: choice.pop("prompt_logprobs"), "no log-probability per prompt token"),
        (lambda choice: choice.update(prompt_token_ids=[0, 1]), "changed the prompt"),
        (lambda choice: choice.update(finish_reason="content_filter"), "finish_reason"),
    ],
)
def test_a_server_that_does_not_tell_tokens_is_refused_before_any_work(serve, change, message):
    server = serve(lambda body, times, choice: change(choice) and None)
    with pytest.raises(ConfigError, match=f"(?s){message}.*very tokens.*0.10.2"):
        next(engine(server.url).run([request("r")]))
    assert all(tuple(body["prompt"]) != (1, 2, 3) for body in server.bodies)


def test_logprobs_after_truncation_are_noticed(serve):
    def processed(body, times, choice):
        if choice["logprobs"]:
            choice["logprobs"]["token_logprobs"] = [0.0 for _ in choice["token_ids"]]

    with pytest.raises(ConfigError, match="raw_logprobs"):
        engine(serve(processed).url).check()


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("where", ["models", "completions"])
def test_a_refused_key_names_its_variable(serve, monkeypatch, caplog, status, where):
    monkeypatch.setenv("ENGINE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    refusal = (status, {"error": {"message": f"bad key {KEY}"}}, {})
    server = serve(lambda *_: refusal, refusal[:2] if where == "models" else (200, LISTED))
    with pytest.raises(ConfigError, match=f"{status}.*environment variable ENGINE_KEY") as caught:
        engine(server.url, api_key_env="ENGINE_KEY").check()
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert KEY not in str(caught.value) and KEY not in caplog.text
    with pytest.raises(ConfigError, match="safety.engine.api_key_env"):
        engine(server.url).check()


def test_an_unreachable_server_a_wrong_model_and_a_wrong_path_are_named(serve):
    server = serve()
    with pytest.raises(ConfigError, match="does not serve 'other' but m. Set engine.model"):
        engine(server.url, model="other").check()
    with pytest.raises(ConfigError, match="answers 404 to completions"):
        engine(serve(lambda *_: (404, {}, {})).url).check()
    server.stop()
    with pytest.raises(ConfigError, match="safety.engine.base_url .*cannot be reached.*Start the server"):
        engine(server.url).check()


def test_another_tokenizer_is_refused_and_no_tokenize_said(serve, caplog):
    def tokenize(body):
        assert body["add_special_tokens"] is False
        return 200, {"tokens": Tokenizer().encode(body["prompt"], False)}

    same = serve(others={"/tokenize": tokenize})
    engine(same.url, Tokenizer()).check()
    assert (
        same.bodies[0]["prompt"] == list(b"Is 12 \xc3\x97 7 = 84?")[:16] and "could not be checked" not in caplog.text
    )
    other = serve(others={"/tokenize": lambda body: (200, {"tokens": [1, 2]})})
    with pytest.raises(ConfigError, match="16 tokens here and 2 there, and differs from token 0"):
        engine(other.url, Tokenizer()).check()
    engine(serve(others={"/tokenize": lambda body: (404, {})}).url, Tokenizer()).check()
    assert "no /tokenize" in caplog.text


def test_requests_beyond_the_window_are_refused_here_alone(serve, caplog):
    server = serve()
    asked = [request("long", new=62), request("fits", new=61), score_request("full", response=(5,) * 62)]
    found = by_id(engine(server.url).run(asked))
    assert isinstance(found["fits"], Completion) and len(asked_of(server)) == 1
    assert "max_model_len is 64" in found["long"].message and found["full"].reason == "refused"
    assert caplog.text.count("--max-model-len") == 1
    one = engine(server.url)
    assert isinstance(next(one.run([request("r")])), Completion)
    assert [result.reason for result in one.run([request("a", new=62)])] == ["refused"], "the last row may be too long"
    with pytest.raises(ConfigError, match="none of 2 requests fits.*65 tokens.*--max-model-len"):
        list(engine(server.url).run([request("a", new=62), request("b", new=63)]))


@pytest.mark.parametrize(
    "fault",
    [
        (408, {}, {}),
        (409, {}, {}),
        (425, {}, {}),
        (429, {}, {"Retry-After": "0.1"}),
        (500, {}, {}),
        (503, b"<html>", {}),
        (200, b"<html>busy</html>", {}),
        (200, {"choices": []}, {}),
        (200, {"choices": [{"finish_reason": "abort"}]}, {}),
        (200, None, {}),
    ],
)
def test_passing_faults_are_waited_out(serve, fault):
    server = serve(lambda body, times, choice: fault if times < 3 and body["prompt"] == [1, 2, 3] else None)
    (found,) = engine(server.url).run([request("r")])
    assert isinstance(found, Completion) and len(asked_of(server)) == 3


def cut(choice):
    return (200, {"choices": [{**choice, "token_ids": [30], "logprobs": {"token_logprobs": [-1.0]}}]}, {})


@pytest.mark.parametrize(
    ("fault", "reason", "said"),
    [
        (lambda choice: (400, {"error": {"message": "Token id 999 is too high", "code": 400}}, {}), "refused", "999"),
        (lambda choice: (413, b"", {}), "refused", "413"),
        (lambda choice: (422, {"detail": [1]}, {}), "refused", "422"),
        (cut, "refused", "after 1 of 4 tokens"),
        (lambda choice: (200, {"choices": [{**choice, "finish_reason": "stop"}]}, {}), "refused", "none of the target"),
        (lambda choice: (200, {"choices": [{**choice, "token_ids": None}]}, {}), "malformed", "no token ids"),
        (lambda choice: (200, {"choices": [{**choice, "token_ids": [1] * 9}]}, {}), "malformed", "log-probability"),
    ],
)
def test_a_fault_of_one_request_is_its_own(serve, caplog, fault, reason, said):
    server = serve(lambda body, times, choice: fault(choice) if body["prompt"] == [1, 2, 3] else None)
    asked = [request("bad"), *(request(f"r{i}", (4, i)) for i in range(5))]
    found = by_id(engine(server.url, concurrency=1).run(asked))
    assert found["bad"].reason == reason and said in found["bad"].message
    assert sum(isinstance(result, Completion) for result in found.values()) == 5
    assert ("the first: " in caplog.text) == (reason == "refused")


def test_a_token_behind_a_stop_token_is_no_answer(serve):
    def on(body, times, choice):
        return (200, {"choices": [FakeVllm().choice(body | {"stop_token_ids": []})]}, {})

    asked = [request(f"r{i}", (4, i), new=30, stop=tuple(range(25))) for i in range(3)]
    found = by_id(engine(serve(on).url).run(asked))
    assert {result.reason for result in found.values()} == {"malformed"}


def test_a_server_that_refuses_everything_ends_the_run_and_nothing_is_kept(serve):
    server = serve(lambda body, times, choice: (400, {}, {}) if len(server.bodies) > PROBES else None)
    with pytest.raises(ConfigError, match="refused: status 400"):
        list(engine(server.url).run([request(f"r{i}") for i in range(5)]))


def test_requests_that_are_refused_are_so_even_if_they_are_all_that_is_left(serve):
    server = serve(lambda body, times, choice: (400, {}, {}) if body["prompt"] == [1, 2, 3] else None)
    assert [result.reason for result in engine(server.url).run([request("r")])] == ["refused"]


def test_a_server_that_hangs_is_given_up(serve):
    hang = threading.Event()
    server = serve(lambda body, times, choice: hang.wait(20) and None if body["prompt"] == [1, 2, 3] else None)
    started = time.monotonic()
    with pytest.raises(StageError, match="does not answer after 2 tries.*Timeout.*journalled"):
        list(engine(server.url, attempts=2, timeout_seconds=0.3).run([request("r")]))
    hang.set()
    assert time.monotonic() - started < 5


def test_patience_ends_in_time_too(serve):
    server = serve(lambda body, times, choice: (500, {}, {}) if body["prompt"] == [1, 2, 3] else None)
    one = engine(server.url)
    one.check()
    one.engine._flow._policy = RetryPolicy(10_000, 0.02, 0.05, seconds=0.5)
    started = time.monotonic()
    with pytest.raises(StageError, match="after [0-9]+ tries over [01] s: status 500"):
        list(one.run([request("r")]))
    assert 0.4 < time.monotonic() - started < 3


def test_a_server_that_dies_loses_nothing_and_repeats_nothing(tmp_path, serve):
    asked = [request(f"r{i}", (9, i)) for i in range(30)]
    dead = threading.Event()

    def dies(body, times, choice):
        if len(server.bodies) - PROBES > 12:
            dead.set()
        return (200, None, {}) if dead.is_set() else None

    server = serve(dies)

    def finish(url: str) -> None:
        queue = WorkQueue({"target": Journal(tmp_path / "j.jsonl")}, lambda: engine(url, concurrency=4).engine)
        finish_queue(queue, asked)

    with pytest.raises(StageError, match="the server of 'm' .*does not answer after 3 tries.*only the rest is asked"):
        finish(server.url)
    server.stop()
    done = (tmp_path / "j.jsonl").read_bytes().count(b'"kind":"completion"')
    assert 9 <= done <= 12 and b"failure" not in (tmp_path / "j.jsonl").read_bytes()
    assert len(set(asked_of(server))) <= 12 + 4 + 1, "what is not under way is not tried on a dead server"
    back = serve()  # at another address
    finish(back.url)
    held = (tmp_path / "j.jsonl").read_bytes()
    assert held.count(b'"kind":"completion"') == 30 and len(asked_of(back)) == 30 - done
    assert not set(asked_of(back)) & set(asked_of(server)[:9])
    finish("http://127.0.0.1:9")  # all is there: nobody is asked


def test_no_more_than_the_allowed_requests_are_under_way(tmp_path, serve):
    server = serve(lambda body, times, choice: time.sleep(0.01))
    queue = WorkQueue({"target": Journal(tmp_path / "j.jsonl")}, lambda: engine(server.url, concurrency=3).engine)
    finish_queue(queue, [request(f"r{index}", (9, index)) for index in range(40)])
    assert server.most_busy == 3 and len(queue.generated) == 40


def test_who_stops_listening_does_not_wait(serve):
    hang = threading.Event()
    server = serve(lambda body, times, choice: hang.wait(20) and None if body["prompt"] == [9, 1] else None)
    results = engine(server.url).run([request("r0", (9, 0)), request("r1", (9, 1))])
    assert next(results).request_id == "r0"
    started = time.monotonic()
    results.close()
    hang.set()
    assert time.monotonic() - started < 2
