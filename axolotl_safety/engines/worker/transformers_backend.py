"""The backend that runs models with transformers: on a CPU, on a GPU, without anything else to install."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from decode import ContinuousDecoder, Decoder, StaticDecoder
from items import GenerateItem, Item, failure, refusal
from loading import Loaded, load
from protocol import LoadError
from rows import release_memory
from scoring import Scorer

LOG = logging.getLogger(__name__)
Message = dict[str, Any]


@dataclass(frozen=True)
class Lane:
    """One model and its two queues."""

    loaded: Loaded
    decoder: Decoder
    scorer: Scorer

    @property
    def busy(self) -> bool:
        """Whether there is work for this model."""
        return self.decoder.busy or self.scorer.busy


class TransformersBackend:
    """Several models in one process; each step serves every model that has work.

    Args:
        batch_size: rows at once, per model.
        threads: CPU threads; None leaves torch's choice.
        announce: sends a message at once, for what takes long.
    """

    def __init__(self, batch_size: int, threads: int | None, announce: Callable[[Message], None]) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._batch_size = batch_size
        self._announce = announce
        self._lanes: dict[str, Lane] = {}
        self._specs: dict[str, Message] = {}
        self._events: list[Message] = []

    def about(self) -> Message:
        """What runs here, for the log."""
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu x {torch.get_num_threads()}"
        return {"torch": torch.__version__, "transformers": transformers.__version__, "device": device}

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._events) or any(lane.busy for lane in self._lanes.values())

    def load(self, name: str, spec: Message) -> None:
        """Loads a model; if memory does not suffice for it beside the idle ones, those make room.

        Raises:
            LoadError: it cannot be loaded.
        """
        self._specs[name] = spec
        loaded = self._try_load(spec)
        if loaded is None and (idle := [other for other, lane in self._lanes.items() if not lane.busy]):
            LOG.warning("out of memory while loading %s; unloading %s", name, idle)
            for other in idle:
                del self._lanes[other]
            self._clean()
            loaded = self._try_load(spec)
        if loaded is None:
            hint = "Use a smaller model, quantization: bitsandbytes, or free the GPU (see nvidia-smi)."
            raise LoadError(f"{spec['path']}: out of GPU memory", hint)
        kind = ContinuousDecoder if loaded.growing_cache else StaticDecoder
        LOG.warning("%s: %s on %s", name, kind.__name__, loaded.device)
        common = (loaded, self._batch_size, self._announce)
        self._lanes[name] = Lane(loaded, kind(*common), Scorer(*common))

    def _try_load(self, spec: Message) -> Loaded | None:
        try:
            return load(spec)
        except torch.OutOfMemoryError:
            pass
        self._clean()  # outside of the handler, whose traceback keeps the tensors alive
        return None

    @staticmethod
    def _clean() -> None:
        gc.collect()
        release_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def add(self, item: Item) -> None:
        """Queues an item; one that its model cannot take fails alone."""
        if item.model not in self._lanes:  # unloaded to make room for another
            self._announce({"type": "loading", "name": item.model})
            self.load(item.model, self._specs[item.model])
            self._announce({"type": "loaded", "name": item.model})
        lane = self._lanes[item.model]
        reason = refusal(item, lane.loaded.vocabulary, lane.loaded.max_positions)
        if reason:
            self._events.append(failure(item, reason))
        elif isinstance(item, GenerateItem):
            lane.decoder.add(item)
        else:
            lane.scorer.add(item)

    def step(self) -> list[Message]:
        """One token for every row of every model, and one batch of scores per model."""
        events, self._events = self._events, []
        for lane in self._lanes.values():
            if lane.decoder.busy:
                events += lane.decoder.step()
            if lane.scorer.busy:
                events += lane.scorer.step()
        return events

    def cancel(self) -> None:
        """Forgets every item."""
        self._events = []
        for lane in self._lanes.values():
            lane.decoder.cancel()
            lane.scorer.cancel()

    def progress(self) -> Message:
        """Figures for a heartbeat."""
        lanes = self._lanes.items()
        return {
            "active": {name: lane.decoder.active for name, lane in lanes},
            "tokens": {name: lane.decoder.tokens_drawn for name, lane in lanes},
        }
