"""The backend that runs models with vLLM, 0.20 or newer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from descendants import end_children
from protocol import LoadError
from turns import Turns
from vllm_options import arguments, set_environment

LOG = logging.getLogger(__name__)
Message = dict[str, Any]
_DEFAULT_MAX_NUM_SEQS = 256
_EXIT_SECONDS = 30.0


class VllmBackend(Turns):
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
        super().__init__(announce)
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

    def about(self) -> Message:
        """What runs here, for the log."""
        return self._about

    def _start(self, name: str) -> Any:
        if self._loaded and self._memory.get(name, {}).get("alone", False):
            return None
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
        return ServedModel(llm, given["max_num_seqs"], given.get("long_prefill_token_threshold"), self._announce)

    def _unload(self) -> None:
        self.close(_EXIT_SECONDS)

    def close(self, seconds: float = 2.0) -> None:
        """Unloads every model: asks vLLM's processes to go, and kills those that stay. With them goes their memory.

        Args:
            seconds: how long they may take.
        """
        end_children(seconds)
        self._loaded.clear()  # after them: vLLM's own finaliser waits for processes without a limit


def _hint(error: Exception) -> str:
    text = str(error).lower()
    if "max_model_len" in text or "kv cache" in text or "memory" in text:
        return (
            "Lower safety.engine.max_model_len or sequence_len, quantise the model, or let it have more memory "
            "(safety.engine.gpu_memory_utilization)."
        )
    return "Check the path or id, the revision, and that this vLLM knows the architecture; its own message is above."
