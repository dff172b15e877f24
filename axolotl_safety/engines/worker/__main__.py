"""The engine's child process: ``python .../engines/worker --backend transformers ...``.

It imports nothing of the package that started it, so that another environment's interpreter can run it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from typing import Any


def _transformers(options: argparse.Namespace, send: Any) -> Any:
    from transformers_backend import TransformersBackend

    return TransformersBackend(options.batch_size, options.threads, send)


def _vllm(options: argparse.Namespace, send: Any) -> Any:
    from vllm_backend import VllmBackend

    return VllmBackend(options.options, options.threads, send)


_BACKENDS = {"transformers": _transformers, "vllm": _vllm}


def main() -> int:
    """Builds the backend and serves until told to end; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", required=True, choices=sorted(_BACKENDS))
    parser.add_argument("--work-dir", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--options", type=json.loads, default={}, help="of a backend, as JSON")
    parser.add_argument("--die-with-parent", action="store_true")
    options = parser.parse_args()

    import lifeline

    if options.backend == "vllm":  # it starts processes of its own
        lifeline.guard_group()
    parent = os.getppid()
    if options.die_with_parent:
        lifeline.ask_kernel(parent)
    lifeline.watch_parent(parent)

    import protocol

    channel = protocol.Channel()
    try:
        backend = _BACKENDS[options.backend](options, channel.send)
    except Exception as error:
        traceback.print_exc()
        hint = f"The engine runs under {sys.executable}: install what is missing there, or name another interpreter."
        channel.send({"type": "fatal", "error": f"{type(error).__name__}: {error}", "hint": hint})
        return 1
    channel.send({"type": "ready", "pid": os.getpid(), "rss": protocol.peak_rss_bytes(), **backend.about()})
    status = protocol.serve(backend, channel)
    if hasattr(backend, "close"):
        backend.close()
    return status


if __name__ == "__main__":
    try:
        status = main()
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    # Daemon threads and library finalisers have been seen to hang an exit; nothing here needs them.
    os._exit(status)
