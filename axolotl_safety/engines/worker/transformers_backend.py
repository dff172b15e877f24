"""The backend that runs models with transformers: on a CPU, on a GPU, without anything else to install."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch
import transformers
from decode import ContinuousDecoder, Decoder, StaticDecoder
from items import GenerateItem, Item, failure, refusal
from loading import Loaded, load
from protocol import LoadError
from rows import Send, is_out_of_memory
from scoring import Scorer
from turns import Turns

LOG = logging.getLogger(__name__)
Message = dict[str, Any]


class ModelWorker:
    """One model and its two queues."""

    def __init__(self, loaded: Loaded, batch_size: int, send: Send) -> None:
        kind = ContinuousDecoder if loaded.growing_cache else StaticDecoder
        self.decoder: Decoder = kind(loaded, batch_size, send)
        self.scorer = Scorer(loaded, batch_size, send)
        self._loaded = loaded
        self._queues = (self.decoder, self.scorer)

    @property
    def busy(self) -> bool:
        """Whether there is work for this model."""
        return any(queue.busy for queue in self._queues)

    @property
    def short_of_memory(self) -> bool:
        """Whether memory does not suffice for a single one of its items."""
        return any(queue.short_of_memory for queue in self._queues)

    @property
    def items(self) -> list[Item]:
        """Everything that has no result yet."""
        return [*self.decoder.items, *self.scorer.items]

    @property
    def active(self) -> int:
        """Rows in the batch."""
        return self.decoder.active

    @property
    def tokens_drawn(self) -> int:
        """By the decoder."""
        return self.decoder.tokens_drawn

    def add(self, item: Item) -> Message | None:
        """Queues an item; returns the message that turns it down, if the model cannot take it."""
        reason = refusal(item, self._loaded.vocabulary, self._loaded.max_positions)
        if reason:
            return failure(item, reason)
        (self.decoder if isinstance(item, GenerateItem) else self.scorer).add(item)
        return None

    def step(self) -> list[Message]:
        """One token for every row, and one batch of scores."""
        return [message for queue in self._queues if queue.busy for message in queue.step()]

    def cancel(self) -> None:
        """Forgets every item."""
        for queue in self._queues:
            queue.cancel()


class TransformersBackend(Turns):
    """Several models in one process; each step serves every loaded model that has work.

    Args:
        batch_size: rows at once, per model.
        threads: CPU threads; None leaves torch's choice.
        announce: sends a message at once, for what takes long.
    """

    def __init__(self, batch_size: int, threads: int | None, announce: Callable[[Message], None]) -> None:
        super().__init__(announce)
        if threads:
            torch.set_num_threads(threads)
        self._batch_size = batch_size

    def about(self) -> Message:
        """What runs here, for the log."""
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu x {torch.get_num_threads()}"
        return {"torch": torch.__version__, "transformers": transformers.__version__, "device": device}

    def _start(self, name: str) -> ModelWorker | None:
        spec = self._specs[name]
        loaded = self._try_load(spec)
        if loaded is None and any(model.active for model in self._loaded.values()):
            for model in self._loaded.values():  # smaller batches beside each other are better than turns
                model.decoder.requeue()
            loaded = self._try_load(spec)
        if loaded is not None:
            model = ModelWorker(loaded, self._batch_size, self._announce)
            LOG.warning("%s: %s on %s", name, type(model.decoder).__name__, loaded.device)
            return model
        if not self._loaded:
            hint = "Use a smaller model, quantization: bitsandbytes, or free the GPU (see nvidia-smi)."
            raise LoadError(f"{spec['path']}: out of GPU memory", hint)
        LOG.warning("%s: out of memory beside %s; it waits for its turn", name, ", ".join(self._loaded))
        return None

    def _try_load(self, spec: Message) -> Loaded | None:
        try:
            return load(spec)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        _clean()  # outside of the handler, whose traceback keeps the tensors alive
        return None

    def _unload(self) -> None:
        self._loaded.clear()
        _clean()

    def step(self) -> list[Message]:
        """One token for every row of every model, and one batch of scores per model."""
        events = super().step()
        for name in [name for name, model in self._loaded.items() if model.short_of_memory]:
            if len(self._loaded) > 1:  # else the item itself is too long
                LOG.warning("%s: out of memory on one request; it waits until the other models make room", name)
                self._parked[name] = self._loaded.pop(name).items
                _clean()
        return events


def _clean() -> None:
    gc.collect()
    torch.cuda.empty_cache()
