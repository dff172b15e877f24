"""Which requests wait, which are with a child, and which are suspected of having killed it."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable

from axolotl_safety.engines.base import Failure, Request, ScoreRequest

Asked = Request | ScoreRequest
Numbered = tuple[int, Asked]


class Backlog:
    """The requests that no child has, shared by all replicas, by model in the order in which they came.

    Attributes:
        unanswered: by model, requests without a result, wherever they are.
    """

    def __init__(self) -> None:
        self.unanswered: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[Numbered]] = defaultdict(deque)

    def add(self, number: int, request: Asked) -> None:
        """Takes a request in."""
        self.unanswered[request.model] += 1
        self._waiting[request.model].append((number, request))

    def take(self, full: Iterable[str] = ()) -> Numbered | None:
        """The next request for a model other than these, or None when none waits."""
        for model, waiting in self._waiting.items():
            if waiting and model not in full:
                return waiting.popleft()
        return None

    def give_back(self, requests: list[Numbered]) -> None:
        """Puts requests to the front again, in their order."""
        for number, request in reversed(requests):
            self._waiting[request.model].appendleft((number, request))

    def clear(self) -> None:
        """Forgets everything."""
        self.unanswered.clear()
        self._waiting.clear()


class Ledger:
    """What one replica took from the backlog: in flight, under suspicion, on trial.

    After a crash the requests that the child was working on are suspects: each is tried alone. One that kills the
    child alone, its second time, is poisoned and set aside.

    Args:
        backlog: where the requests come from.
        window: how many requests for one model may be with the child at once.
    """

    def __init__(self, backlog: Backlog, window: int) -> None:
        self._backlog = backlog
        self._window = window
        self._in_flight: dict[int, Asked] = {}
        self._by_model: Counter[str] = Counter()
        self._active: set[int] = set()
        self._suspects: deque[Numbered] = deque()
        self._on_trial: int | None = None

    @property
    def in_flight(self) -> int:
        """How many requests are with the child."""
        return len(self._in_flight)

    def next_to_send(self, replicas: int = 1) -> Numbered | None:
        """What the child may get now, booked as in flight; None when it has enough or nothing waits.

        Args:
            replicas: how many share the backlog. Where less is left than all of them could hold, none takes more than
                its part: the last requests would wait for it while others are idle.
        """
        if self._on_trial is not None:
            return None
        if self._suspects:
            if self._in_flight:
                return None  # what is in flight must come home first: a suspect is tried alone
            number, request = self._suspects.popleft()
            self._on_trial = number
        else:
            taken = self._backlog.take([model for model in self._by_model if self._is_full(model, replicas)])
            if taken is None:
                return None
            number, request = taken
        self._in_flight[number] = request
        self._by_model[request.model] += 1
        return number, request

    def _is_full(self, model: str, replicas: int) -> bool:
        share = -(-self._backlog.unanswered[model] // replicas)
        return self._by_model[model] >= min(self._window, share)

    def started(self, numbers: Iterable[int]) -> None:
        """Books the requests that the child now works on."""
        self._active.update(number for number in numbers if number in self._in_flight)

    def finished(self, number: int) -> Asked | None:
        """Books a result; returns its request, or None for one that is not in flight (it was cancelled)."""
        request = self._in_flight.pop(number, None)
        self._active.discard(number)
        if number == self._on_trial:
            self._on_trial = None
        if request is not None:
            self._by_model[request.model] -= 1
            self._backlog.unanswered[request.model] -= 1
        return request

    def crashed(self, cause: str) -> tuple[int, Failure] | None:
        """Books the child's death: nothing in flight is lost.

        Returns:
            Number and failure of the request that was on trial, if it was the one that the child worked on.
        """
        poisoned: tuple[int, Failure] | None = None
        back: list[Numbered] = []
        for number, request in self._in_flight.items():
            if number not in self._active:
                back.append((number, request))
            elif number == self._on_trial:
                message = (
                    f"The engine died twice while it worked on this request, the second time on it alone ({cause}). "
                    "It was set aside and the run went on; look at its prompt, or drop the row."
                )
                poisoned = number, Failure(request.request_id, "poisoned", message)
                self._backlog.unanswered[request.model] -= 1
            else:
                self._suspects.append((number, request))
        if self._on_trial is not None and back:
            self._suspects.extendleft(reversed(back))  # died before it was touched: still a suspect
        else:
            self._backlog.give_back(back)
        self._forget()
        return poisoned

    def hand_back(self) -> None:
        """Gives everything back to the backlog: this replica is given up. Suspects are then as any other request."""
        self._backlog.give_back([*self._in_flight.items(), *self._suspects])
        self._suspects.clear()
        self._forget()

    def cancel(self) -> None:
        """Forgets everything, suspects too."""
        self._suspects.clear()
        self._forget()

    def _forget(self) -> None:
        self._in_flight.clear()
        self._by_model.clear()
        self._active.clear()
        self._on_trial = None
