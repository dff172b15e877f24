"""Which requests wait, which are with a child, and which are suspected of having killed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from axolotl_safety.engines.base import Failure, Request, ScoreRequest

Asked = Request | ScoreRequest
Numbered = tuple[int, Asked]


def _length(request: Asked) -> int:
    """Tokens that a request can come to."""
    if isinstance(request, ScoreRequest):
        return len(request.prompt_token_ids) + len(request.response_token_ids)
    return len(request.prompt_token_ids) + request.sampling.max_new_tokens


class Backlog:
    """The requests of one run that no child has, shared by all lanes.

    The longest go first, so that the end of the run does not wait for one long straggler and batch mates have similar
    lengths. The models keep the order in which they first appear, so that one model's memory is needed at a time.

    Args:
        requests: what is asked.
        first_number: the number of the first request; every request of an engine has its own.

    Attributes:
        models: the models asked for, in order.
        unanswered: requests without a result, wherever they are.
        next_number: one more than the last number given.
    """

    def __init__(self, requests: Iterable[Asked], first_number: int = 0) -> None:
        asked = list(requests)
        order: dict[str, int] = {}
        for request in asked:
            order.setdefault(request.model, len(order))
        asked.sort(key=lambda request: (order[request.model], -_length(request)))
        self.models = tuple(order)
        self.unanswered = len(asked)
        self.next_number = first_number + len(asked)
        self._waiting = deque(enumerate(asked, first_number))

    def take(self) -> Numbered | None:
        """The next request, or None when none waits."""
        return self._waiting.popleft() if self._waiting else None

    def give_back(self, requests: list[Numbered]) -> None:
        """Puts requests to the front again, in their order."""
        self._waiting.extendleft(reversed(requests))


class Ledger:
    """What one lane took from the backlog: in flight, under suspicion, on trial.

    After a crash the requests that the child was working on are suspects: each is tried alone. One that kills the
    child alone, its second time, is poisoned and set aside.

    Args:
        backlog: where the requests come from.
        window: how many requests may be with the child at once.
    """

    def __init__(self, backlog: Backlog, window: int) -> None:
        self._backlog = backlog
        self._window = window
        self._in_flight: dict[int, Asked] = {}
        self._active: set[int] = set()
        self._suspects: deque[Numbered] = deque()
        self._on_trial: int | None = None

    @property
    def in_flight(self) -> int:
        """How many requests are with the child."""
        return len(self._in_flight)

    def next_to_send(self, share: int | None = None) -> Numbered | None:
        """What the child may get now, booked as in flight; None when it has enough or nothing waits.

        Args:
            share: the most that this lane may hold, where less than the window is fair to the other lanes.
        """
        if self._on_trial is not None:
            return None
        if self._suspects:
            if self._in_flight:
                return None  # what is in flight must come home first: a suspect is tried alone
            number, request = self._suspects.popleft()
            self._on_trial = number
        else:
            room = self._window if share is None else min(self._window, share)
            taken = self._backlog.take() if len(self._in_flight) < room else None
            if taken is None:
                return None
            number, request = taken
        self._in_flight[number] = request
        return number, request

    def started(self, numbers: Iterable[int]) -> None:
        """Books the requests that the child now works on."""
        self._active.update(number for number in numbers if number in self._in_flight)

    def finished(self, number: int) -> Asked | None:
        """Books a result; returns its request, or None for one that is not in flight (an earlier, cancelled run)."""
        request = self._in_flight.pop(number, None)
        self._active.discard(number)
        if number == self._on_trial:
            self._on_trial = None
        if request is not None:
            self._backlog.unanswered -= 1
        return request

    def crashed(self, cause: str) -> Failure | None:
        """Books the child's death: nothing in flight is lost.

        Returns:
            The failure of the request that was on trial, if it was the one that the child worked on.
        """
        poisoned: Failure | None = None
        back: list[Numbered] = []
        for number, request in self._in_flight.items():
            if number not in self._active:
                back.append((number, request))
            elif number == self._on_trial:
                message = (
                    f"The engine died twice while it worked on this request, the second time on it alone ({cause}). "
                    "It was set aside and the run went on; look at its prompt, or drop the row."
                )
                poisoned = Failure(request.request_id, "poisoned", message)
                self._backlog.unanswered -= 1
            else:
                self._suspects.append((number, request))
        if self._on_trial is not None and back:
            self._suspects.extendleft(reversed(back))  # died before it was touched: still a suspect
        else:
            self._backlog.give_back(back)
        self._in_flight.clear()
        self._active.clear()
        self._on_trial = None
        return poisoned

    def hand_back(self) -> None:
        """Gives everything back to the backlog: this lane is given up. Suspects are then as any other request."""
        self._backlog.give_back([*self._in_flight.items(), *self._suspects])
        self._suspects.clear()
        self._in_flight.clear()
        self._active.clear()
        self._on_trial = None
