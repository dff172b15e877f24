"""HTTP servers on localhost that answer as told: a judge's, and one that plays vLLM's server without a model."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any, dict[str, str]]


def last_message(body: dict[str, Any]) -> Any:
    """What a chat request asks."""
    return body["messages"][-1]["content"]


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # as real servers take; five at once would be refused under load


class FakeServer:
    """Answers POST by ``reply(what is asked, how often it was asked) -> (status, body, headers)``.

    A body of None closes the connection without an answer; a header ``Drips`` sends a byte every so many seconds.

    Args:
        reply: the answer to what is not among ``others``.
        models: the answer to GET.
        what: what of a request's body is passed to ``reply``, and counted.
        others: answers by path, of the request's body.
        port: 0 for any.
    """

    def __init__(
        self,
        reply: Callable[[Any, int], Reply],
        models: tuple[int, Any],
        what: Callable[[dict[str, Any]], Any] = last_message,
        others: dict[str, Callable[[Any], tuple[int, Any]]] | None = None,
        port: int = 0,
    ):
        self.reply, self.models, self.what, self.others = reply, models, what, others or {}
        self.asked: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def send(self, status: int, body: Any, headers: dict[str, str]) -> None:
                if body is None:
                    self.close_connection = True
                    return
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                drips = float(headers.pop("Drips", 0))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for index in range(len(data) if drips else 0):
                    time.sleep(drips)
                    self.wfile.write(data[index : index + 1])
                if not drips:
                    self.wfile.write(data)

            def do_GET(self) -> None:
                outer.paths.append(self.path)
                outer.headers.append(dict(self.headers))
                other = outer.others.get(self.path)
                self.send(*(other(None) if other else outer.models), {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path in outer.others:
                    self.send(*outer.others[self.path](body), {})
                    return
                what = outer.what(body)
                with outer.lock:
                    outer.paths.append(self.path)
                    outer.headers.append(dict(self.headers))
                    outer.bodies.append(body)
                    outer.asked.append(what)
                    outer.busy += 1
                    outer.most_busy = max(outer.most_busy, outer.busy)
                    times = outer.asked.count(what)
                try:
                    answer = outer.reply(what, times)
                finally:
                    with outer.lock:
                        outer.busy -= 1
                try:
                    self.send(*answer)
                except OSError:
                    pass  # the client gave up

        self.http = _Server(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Close the port; safe to call twice."""
        self.http.shutdown()
        self.http.server_close()


class FakeVllm:
    """Bodies of replies as vLLM 0.32's server writes them, from a made-up model.

    Args:
        answer: ids for a prompt, the stop token included; by default drawn by the request's seed.
        vocabulary: number of token ids.
    """

    def __init__(self, answer: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None, vocabulary: int = 50):
        self.answer, self.vocabulary = answer, vocabulary

    def logprob(self, before: tuple[int, ...], token: int) -> float:
        """log p of a token, in nats; a function of what stands before it."""
        return -0.5 - _draw((before, token), 1000) / 1000

    def choice(self, body: dict[str, Any]) -> dict[str, Any]:
        """The one choice of a reply."""
        prompt = tuple(body["prompt"])
        ids = self.answer(prompt) if self.answer else self._drawn(prompt, body)
        stops = body.get("stop_token_ids") or []
        ids = ids[: min((ids.index(stop) + 1 for stop in stops if stop in ids), default=len(ids))][: body["max_tokens"]]
        logprobs = [self.logprob(prompt + ids[:i], token) for i, token in enumerate(ids)]
        asked = [
            {str(token): {"logprob": self.logprob(prompt[:i], token), "rank": 1, "decoded_token": "x"}} if i else None
            for i, token in enumerate(prompt)
        ]
        return {
            "index": 0,
            "text": "".join("x" for _ in ids),
            "logprobs": {"token_logprobs": logprobs, "tokens": ["x"] * len(ids)} if "logprobs" in body else None,
            "finish_reason": "stop" if ids[-1] in stops else "length",
            "token_ids": list(ids) if body.get("return_token_ids") else None,
            "prompt_logprobs": asked if "prompt_logprobs" in body else None,
            "prompt_token_ids": list(prompt) if body.get("return_token_ids") else None,
        }

    def _drawn(self, prompt: tuple[int, ...], body: dict[str, Any]) -> tuple[int, ...]:
        return tuple(_draw((prompt, body.get("seed"), i), self.vocabulary) for i in range(body["max_tokens"]))


def _draw(of: Any, below: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:4], "big") % below
