"""Which requests wait, which are with the child, and which are suspected of having killed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from axolotl_safety.engines.base import Failure, Request, ScoreRequest

Asked = Request | ScoreRequest


def _length(request: Asked) -> int:
    """Tokens that a request can come to."""
    if isinstance(request, ScoreRequest):
        return len(request.prompt_token_ids) + len(request.response_token_ids)
    return len(request.prompt_token_ids) + request.sampling.max_new_tokens


class Ledger:
    """The requests of one run: waiting, in flight, done.

    The longest go first, so that the end of the run does not wait for one long straggler and batch mates have similar
    lengths. The models keep the order in which they first appear, so that one model's memory is needed at a time.

    After a crash the requests that the child was working on are suspects: each is tried alone. One that kills the
    child alone, its second time, is poisoned and set aside.

    Args:
        requests: what is asked.
        window: how many requests may be with the child at once.
        first_number: the number of the first request; every request of an engine has its own.
    """

    def __init__(self, requests: Iterable[Asked], window: int, first_number: int = 0) -> None:
        asked = list(requests)
        order: dict[str, int] = {}
        for request in asked:
            order.setdefault(request.model, len(order))
        asked.sort(key=lambda request: (order[request.model], -_length(request)))
        self.models = tuple(order)
        self.next_number = first_number + len(asked)
        self._window = window
        self._waiting = deque(enumerate(asked, first_number))
        self._in_flight: dict[int, Asked] = {}
        self._active: set[int] = set()
        self._suspects: deque[tuple[int, Asked]] = deque()
        self._on_trial: int | None = None

    @property
    def done(self) -> bool:
        """Whether every request has its result."""
        return not (self._waiting or self._in_flight or self._suspects)

    @property
    def in_flight(self) -> int:
        """How many requests are with the child."""
        return len(self._in_flight)

    def to_send(self) -> Iterator[tuple[int, Asked]]:
        """Yields what the child may get now, and books it as in flight."""
        if self._on_trial is not None:
            return
        if self._suspects:
            # What is in flight must come home first: a suspect is tried alone.
            if not self._in_flight:
                number, request = self._suspects.popleft()
                self._on_trial = number
                self._in_flight[number] = request
                yield number, request
            return
        while self._waiting and len(self._in_flight) < self._window:
            number, request = self._waiting.popleft()
            self._in_flight[number] = request
            yield number, request

    def started(self, numbers: Iterable[int]) -> None:
        """Books the requests that the child now works on."""
        self._active.update(number for number in numbers if number in self._in_flight)

    def finished(self, number: int) -> Asked | None:
        """Books a result; returns its request, or None for one that is not in flight (an earlier, cancelled run)."""
        request = self._in_flight.pop(number, None)
        self._active.discard(number)
        if number == self._on_trial:
            self._on_trial = None
        return request

    def crashed(self, cause: str) -> Failure | None:
        """Books the child's death: nothing in flight is lost.

        Returns:
            The failure of the request that was on trial, if it was the one that the child worked on.
        """
        poisoned: Failure | None = None
        back: list[tuple[int, Asked]] = []
        for number, request in self._in_flight.items():
            if number not in self._active:
                back.append((number, request))
            elif number == self._on_trial:
                message = (
                    f"The engine died twice while it worked on this request, the second time on it alone ({cause}). "
                    "It was set aside and the run went on; look at its prompt, or drop the row."
                )
                poisoned = Failure(request.request_id, "poisoned", message)
            else:
                self._suspects.append((number, request))
        if self._on_trial is not None and back:
            self._suspects.extendleft(reversed(back))  # died before it was touched: still a suspect
        else:
            self._waiting.extendleft(reversed(back))
        self._in_flight.clear()
        self._active.clear()
        self._on_trial = None
        return poisoned
