"""The backend that runs models with vLLM, 0.20 or newer."""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from descendants import end_children
from items import Item
from protocol import LoadError
from vllm_options import arguments, set_environment

LOG = logging.getLogger(__name__)
Message = dict[str, Any]
_DEFAULT_MAX_NUM_SEQS = 256
_EXIT_SECONDS = 30.0


class VllmBackend:
    """Several models, each with an engine of its own; beside each other, or one at a time where memory is short.

    On a GPU each engine is a process that vLLM starts, so that a model's memory is free when its process is gone. On a
    CPU all of them live in this one.

    Args:
        options: `vllm_options.arguments` names them; ``memory`` holds, by model name, what it takes of a card
            (``gpu_memory_utilization``, ``kv_cache_memory_bytes``) and whether it must be ``alone``.
        threads: CPU threads; None leaves the choice to vLLM.
        announce: sends a message at once, for what takes long.
    """

    def __init__(self, options: Message, threads: int | None, announce: Callable[[Message], None]) -> None:
        import torch

        # Asks the driver without making a context; a context here would hold memory for as long as this process lives.
        self._on_cpu = not torch.cuda.is_available()
        set_environment(self._on_cpu, threads)
        import vllm

        if self._on_cpu:
            from vllm_cpu import let_seeds_survive_chunks

            let_seeds_survive_chunks()
            if threads:
                torch.set_num_threads(threads)
        device = f"cpu x {torch.get_num_threads()}" if self._on_cpu else f"cuda x {torch.cuda.device_count()}"
        self._about = {"vllm": vllm.__version__, "torch": torch.__version__, "device": device}
        self._options = {**options, "max_num_seqs": options.get("max_num_seqs") or _DEFAULT_MAX_NUM_SEQS}
        self._memory: dict[str, Message] = options.get("memory") or {}
        self._announce = announce
        self._specs: dict[str, Message] = {}
        self._served: dict[str, Any] = {}
        self._parked: defaultdict[str, deque[Item]] = defaultdict(deque)  # items of models that are not loaded
        self._events: list[Message] = []

    def about(self) -> Message:
        """What runs here, for the log."""
        return self._about

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._events or any(self._parked.values())) or any(model.busy for model in self._served.values())

    def load(self, name: str, spec: Message) -> None:
        """Loads a model now, or once the one that it cannot live beside has nothing left to do.

        Raises:
            LoadError: it cannot be loaded.
        """
        self._specs[name] = spec
        alone = self._memory.get(name, {}).get("alone", False)
        if not (alone and self._served):
            self._start(name)

    def _start(self, name: str) -> None:
        import vllm
        from vllm_model import ServedModel

        spec = self._specs[name]
        memory = {key: value for key, value in self._memory.get(name, {}).items() if key != "alone"}
        given = arguments(spec, self._options, memory, self._on_cpu)
        shown = {key: value for key, value in given.items() if value is not None}
        LOG.warning("%s: vllm.LLM(%s)", name, ", ".join(f"{key}={value!r}" for key, value in shown.items()))
        try:
            llm = vllm.LLM(**given)
        except Exception as error:  # whatever an engine's start can raise, over ten versions
            raise LoadError(f"{spec['path']}: {type(error).__name__}: {error}", _hint(error)) from error
        self._served[name] = ServedModel(
            llm, given["max_num_seqs"], given.get("long_prefill_token_threshold"), self._announce
        )

    def add(self, item: Item) -> None:
        """Queues an item; one that its model cannot take fails alone."""
        if item.model not in self._served:
            self._parked[item.model].append(item)
            return
        refused = self._served[item.model].add(item)
        if refused:
            self._events.append(refused)

    def step(self) -> list[Message]:
        """One token for every row of every model."""
        events, self._events = self._events, []
        working = [model for model in self._served.values() if model.busy]
        for model in working:
            events += model.step()
        if not working and not events:
            self._swap()
        return events

    def _swap(self) -> None:
        """Every loaded model is idle: make room for the one that items wait for."""
        name = next((name for name, items in self._parked.items() if items), None)
        if name is None:
            return
        self._announce({"type": "loading", "name": name})
        started = time.monotonic()
        self.close(_EXIT_SECONDS)
        self._start(name)
        self._announce({"type": "loaded", "name": name, "seconds": round(time.monotonic() - started, 1)})
        for item in self._parked.pop(name):
            self.add(item)

    def cancel(self) -> None:
        """Forgets every item."""
        self._events = []
        self._parked.clear()
        for model in self._served.values():
            model.cancel()

    def progress(self) -> Message:
        """Figures for a heartbeat."""
        served = self._served.items()
        return {
            "active": {name: model.active for name, model in served},
            "tokens": {name: model.tokens_drawn for name, model in served},
        }

    def close(self, seconds: float = 2.0) -> None:
        """Unloads every model: asks vLLM's processes to go, and kills those that stay. With them goes their memory.

        Args:
            seconds: how long they may take.
        """
        end_children(seconds)
        self._served.clear()  # after them: vLLM's own finaliser waits for processes without a limit


def _hint(error: Exception) -> str:
    text = str(error).lower()
    if "max_model_len" in text or "kv cache" in text or "memory" in text:
        return (
            "Lower safety.engine.max_model_len or sequence_len, quantise the model, or let it have more memory "
            "(safety.engine.gpu_memory_utilization)."
        )
    return "Check the path or id, the revision, and that this vLLM knows the architecture; its own message is above."
