"""A worker process with the product's protocol, loop and lifeline; the script answers in the place of a model."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import axolotl_safety.engines.local.engine as client_module  # only to find the worker; the child of a test may do so

sys.path.insert(0, str(Path(client_module.__file__).parents[1] / "worker"))
sys.path.insert(0, str(Path(__file__).parent))

import lifeline  # noqa: E402
import protocol  # noqa: E402
from items import GenerateItem, Item  # noqa: E402
from script import Script  # noqa: E402


class ScriptedBackend:
    """One item per step."""

    def __init__(self, script: Script, send) -> None:
        self._script, self._send = script, send
        self._waiting: list[Item] = []

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def load(self, name: str, spec: dict) -> None:
        pass

    def add(self, item: Item) -> None:
        self._waiting.append(item)

    def step(self) -> list[dict]:
        item = self._waiting.pop(0)
        self._send({"type": "started", "ids": [item.number]})
        time.sleep(0.003)
        if not isinstance(item, GenerateItem):
            logprob = self._script.score(item.prompt, item.response)
            return [{"type": "score", "id": item.number, "logprob": logprob, "num_tokens": len(item.response)}]
        said = self._script.say("target" if item.model == "target" else "guard", item.request_id, item.prompt)
        if said.finish_reason == "failure":
            return [{"type": "failure", "id": item.number, "reason": "poisoned", "message": "scripted"}]
        finish = said.finish_reason
        return [{"type": "completion", "id": item.number, "tokens": said.token_ids, "finish": finish, "logprob": -1.0}]

    def cancel(self) -> None:
        self._waiting = []

    def progress(self) -> dict:
        return {}


if __name__ == "__main__":
    if "--die-with-parent" in sys.argv:
        lifeline.ask_kernel(os.getppid())
    lifeline.watch_parent(os.getppid())
    channel = protocol.Channel()
    backend = ScriptedBackend(Script(json.loads(Path(os.environ["TORTURE_SCRIPT"]).read_text())), channel.send)
    channel.send({"type": "ready"})
    os._exit(protocol.serve(backend, channel))
