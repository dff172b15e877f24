"""Several models in one worker: beside each other, or in turns where memory is too short for all of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from items import Item

LOG = logging.getLogger(__name__)
Message = dict[str, Any]
# What just finished may bring more for the same model: that is milliseconds away, and a load takes many seconds.
_WAIT_SECONDS = 0.5


class Turns:
    """A backend without the models. An item waits while its model is not loaded.

    The loaded models keep their turn until none of them has anything left to do; then all of them make room for the
    model whose items have waited longest.

    Args:
        announce: sends a message at once, for what takes long.
    """

    def __init__(self, announce: Callable[[Message], None]) -> None:
        self._announce = announce
        self._specs: dict[str, Message] = {}
        self._loaded: dict[str, Any] = {}
        self._parked: dict[str, list[Item]] = {}  # items of models that are not loaded, the longest wait first
        self._events: list[Message] = []
        self._waited = False

    def _start(self, name: str) -> Any:
        """Loads a model; None if it does not fit beside those that are loaded.

        What it returns has the properties ``busy``, ``active`` and ``tokens_drawn``; ``add`` returns the message that
        turns an item down, or None; ``step`` returns messages; ``cancel`` forgets every item.

        Raises:
            LoadError: it cannot be loaded, or does not fit though no other is loaded.
        """
        raise NotImplementedError

    def _unload(self) -> None:
        """Drops every model and gives its memory back."""
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._events or self._parked) or any(model.busy for model in self._loaded.values())

    def load(self, name: str, spec: Message) -> None:
        """Loads a model now, or once those that it does not fit beside have nothing left to do.

        Raises:
            LoadError: it cannot be loaded.
        """
        self._specs[name] = spec
        model = self._start(name)
        if model is not None:
            self._loaded[name] = model

    def add(self, item: Item) -> None:
        """Queues an item; one that its model cannot take fails alone."""
        model = self._loaded.get(item.model)
        if model is None:
            self._parked.setdefault(item.model, []).append(item)
        elif refused := model.add(item):
            self._events.append(refused)

    def step(self) -> list[Message]:
        """Advances by a little, so that new items can join at any time: one token for every row of every loaded model.

        Returns:
            What became of items: started, completion, score, failure.
        """
        events, self._events = self._events, []
        working = [model for model in self._loaded.values() if model.busy]
        for model in working:
            events += model.step()
        if working or events:
            self._waited = False
        elif not self._waited:
            time.sleep(_WAIT_SECONDS)
            self._waited = True
        else:
            self._swap(next(iter(self._parked)))
        return events

    def _swap(self, name: str) -> None:
        self._announce({"type": "loading", "name": name})
        started = time.monotonic()
        LOG.warning("%s: unloading %s to make room", name, ", ".join(self._loaded))
        self._unload()
        self.load(name, self._specs[name])
        self._announce({"type": "loaded", "name": name, "seconds": round(time.monotonic() - started, 1)})
        for item in self._parked.pop(name):
            self.add(item)

    def cancel(self) -> None:
        """Forgets every item."""
        self._events = []
        self._parked.clear()
        for model in self._loaded.values():
            model.cancel()

    def progress(self) -> Message:
        """Figures for a heartbeat."""
        models = self._loaded.items()
        return {
            "active": {name: model.active for name, model in models},
            "tokens": {name: model.tokens_drawn for name, model in models},
        }
