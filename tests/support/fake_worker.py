"""A worker with the real protocol, loop and lifeline, and no model. Request ids and model paths say what goes wrong.

Request ids: ``kill:*`` kills the worker, ``hang:*`` hangs it, ``print:*`` prints to stdout, ``slow:*`` takes a second.
Model paths: ``missing`` does not load, ``die`` kills the worker, ``slow`` takes long, ``stillborn`` dies before it
starts an item, ``helper`` leaves a helper process that ignores SIGTERM. ``die@1`` does so where GPU 1 is all it sees.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import axolotl_safety.engines.local.engine as client_module  # only to find the worker; the child of a test may do so

sys.path.insert(0, os.path.join(os.path.dirname(client_module.__file__), "..", "worker"))

import lifeline  # noqa: E402
import protocol  # noqa: E402
from items import GenerateItem, failure, refusal  # noqa: E402


class FakeBackend:
    """Answers a request with the sum of its prompt, as often as it wants tokens, one token per step."""

    def __init__(self, batch_size: int, send) -> None:
        self.batch_size, self.send = batch_size, send
        self.waiting, self.active, self.done, self.paths, self.served = [], [], {}, {}, 0

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.active)

    def load(self, name, spec) -> None:
        path, _, where = spec["path"].partition("@")
        if where and where != os.environ.get("CUDA_VISIBLE_DEVICES"):
            path = "fine"
        self.paths[name] = path
        if path == "missing":
            raise protocol.LoadError("missing: no such file", "Check the path.")
        if path == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if path == "slow":
            time.sleep(4.0)
        if path == "helper":
            helper = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid()); time.sleep(99)"
            self.helper = subprocess.Popen([sys.executable, "-u", "-c", helper])

    def add(self, item) -> None:
        self.waiting.append(item)

    def step(self) -> list:
        if "stillborn" in self.paths.values():
            print("about to die for no reason", file=sys.stderr, flush=True)
            os._exit(3)
        new = []
        while self.waiting and len(self.active) < self.batch_size:
            new.append(self.waiting.pop(0))
            self.active.append(new[-1])
        if new:
            self.send({"type": "started", "ids": [item.number for item in new]})
        events = []
        for item in list(self.active):
            name, so_far = item.request_id, self.done.setdefault(item.number, [])
            if name.startswith("kill:") and len(so_far) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if name.startswith("hang:") and len(so_far) == 3:
                time.sleep(1000)
            if name.startswith("print:"):
                print('{"type": "nonsense"}', flush=True)
            if name.startswith("slow:"):
                time.sleep(0.2)
            reason = refusal(item, 1000, 100)
            if reason:
                events.append(failure(item, reason))
            elif not isinstance(item, GenerateItem):
                events.append({"type": "score", "id": item.number, "logprob": -1.0, "num_tokens": len(item.response)})
            else:
                so_far.append(sum(item.prompt))
                if len(so_far) < item.max_new_tokens:
                    continue
                events.append(
                    {"type": "completion", "id": item.number, "tokens": so_far, "finish": "length", "logprob": -1.0}
                )
            self.served += 1
            self.active.remove(item)
            del self.done[item.number]
        time.sleep(0.002)
        return events

    def cancel(self) -> None:
        self.waiting, self.active, self.done = [], [], {}

    def progress(self) -> dict:
        return {}


if __name__ == "__main__":
    batch = int(sys.argv[sys.argv.index("--batch-size") + 1])
    if "--die-with-parent" in sys.argv:
        lifeline.ask_kernel(os.getppid())
    lifeline.watch_parent(os.getppid())
    channel = protocol.Channel()
    backend = FakeBackend(batch, channel.send)
    channel.send({"type": "ready"})
    status = protocol.serve(backend, channel)
    print(f"served {backend.served} on {os.environ.get('CUDA_VISIBLE_DEVICES')}", file=sys.stderr, flush=True)
    os._exit(status)
