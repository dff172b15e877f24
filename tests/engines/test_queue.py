"""The queue: asked once, journalled before anyone sees it, rows under way first, a clear end when nobody answers."""

import asyncio

import pytest
from support.engines import request

from axolotl_safety.engines.base import Completion, EngineFigures, Failure, Score, ScoreRequest
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.queue import WorkQueue, content_id, gather, score_request
from axolotl_safety.methods.run import bounded
from axolotl_safety.util.errors import StageError


class Engine:
    """Answers when it is told to; notes the order in which requests came, and how many are with it."""

    def __init__(self, window=2, fault=None):
        self.figures = EngineFigures()
        self.came, self.closed, self.most, self._window, self._fault = [], [], 0, window, fault
        self._busy = 0

    def window(self, model):
        return self._window

    async def answer(self, asked):
        self.came.append(asked.request_id)
        self._busy += 1
        self.most = max(self.most, self._busy)
        try:
            await asyncio.sleep(0.01)
            if self._fault and asked.request_id in self._fault:
                raise self._fault[asked.request_id]
            if isinstance(asked, ScoreRequest):
                return Score(asked.request_id, -2.0, 4)
            return Completion(asked.request_id, (1, 2), "stop", -1.0)
        finally:
            self._busy -= 1

    async def close(self, at_once=False):
        self.closed.append(at_once)


def make(tmp_path, engine, name="j"):
    return WorkQueue({"target": Journal(tmp_path / f"{name}.jsonl")}, lambda: engine)


def turned(name, turn):
    made = request(name)
    return type(made)(*(getattr(made, field) for field in made.__dataclass_fields__ if field != "turn"), turn)


def run(queue, work):
    async def whole():
        async with queue:
            return await work()

    return asyncio.run(whole())


def test_one_request_of_several_rows_is_made_once_and_each_gets_it(tmp_path):
    engine = Engine()
    queue = make(tmp_path, engine)
    found = run(queue, lambda: gather([queue.completion(request("same")) for _ in range(5)]))
    assert engine.came == ["same"] and len(found) == 5 and len(set(found)) == 1
    assert queue.generated == {"same"} and queue.reused == set() and engine.closed == [False]
    again = make(tmp_path, None)
    assert run(again, lambda: again.completion(request("same"))) == found[0]
    assert again.reused == {"same"} and again.engine is None


def test_no_more_than_its_window_is_with_the_engine_and_the_lowest_turn_goes_first(tmp_path):
    engine = Engine(window=2)
    queue = make(tmp_path, engine)
    asked = [turned(f"row {turn}", turn) for turn in (5, 3, 9, 1, 7, 0)]
    run(queue, lambda: gather([queue.completion(one) for one in asked]))
    assert engine.most == 2 and engine.came == [f"row {turn}" for turn in (0, 1, 3, 5, 7, 9)]


def test_a_row_that_asks_again_goes_before_rows_that_have_not_begun(tmp_path):
    engine = Engine(window=1)
    queue = make(tmp_path, engine)

    async def row(turn):
        await queue.completion(turned(f"{turn} first", turn))
        await queue.completion(turned(f"{turn} again", turn))

    run(queue, lambda: bounded(range(3), row))
    assert engine.came == [f"{turn} {what}" for turn in range(3) for what in ("first", "again")]


def test_when_whoever_answers_gives_up_nothing_new_is_asked_and_what_is_under_way_is_kept(tmp_path):
    engine = Engine(window=3, fault={"row 1": StageError("nobody answers")})
    queue = make(tmp_path, engine)
    with pytest.raises(StageError, match="nobody answers"):
        run(queue, lambda: bounded(range(9), lambda turn: queue.completion(turned(f"row {turn}", turn))))
    assert len(engine.came) <= 4 and queue.generated >= {"row 0", "row 2"} and engine.closed == [True]
    with Journal(tmp_path / "j.jsonl") as journal:
        assert {request_id for _, request_id in journal.keys()} == queue.generated


def test_an_error_that_is_not_ours_cancels_what_is_under_way(tmp_path):
    engine = Engine(window=3)
    queue = make(tmp_path, engine)

    async def row(turn):
        if turn == 1:
            raise KeyError("a slip")
        await queue.completion(turned(f"row {turn}", turn))

    with pytest.raises(KeyError):
        run(queue, lambda: bounded(range(3), row))
    assert queue.generated == set() and engine.closed == [True]


def test_where_no_engine_may_start_what_is_missing_is_named(tmp_path):
    queue = WorkQueue({"target": Journal(tmp_path / "j.jsonl")}, None)
    with pytest.raises(StageError, match="not finished.*axolotl preprocess"):
        run(queue, lambda: queue.completion(request("absent")))


def test_a_failure_stands_in_the_journal_and_is_not_asked_again(tmp_path):
    class Refusing(Engine):
        async def answer(self, asked):
            return Failure(asked.request_id, "refused", "too long")

    queue = make(tmp_path, Refusing())
    failed = run(queue, lambda: queue.completion(request("r")))
    again = make(tmp_path, None)
    assert run(again, lambda: again.completion(request("r"))) == failed
    scored = make(tmp_path, Engine())
    asked = score_request("fp", (1, 2), (3, 4, 5, 6))
    assert run(scored, lambda: scored.nll(asked)) == 0.5


def test_ids_are_those_of_the_standard_library_whatever_writes_them():
    parts = ("completion", ("fp", 7, "row"), (1, 2, 300000), {"b": 0.7, "a": 1}, 0.5, "Übung\udc80")
    assert content_id(*parts) == content_id(*parts[:2], [1, 2, 300000], *parts[3:])
    assert content_id((5, 6)) != content_id((5, 7)) and len(content_id("x")) == 32


def test_a_hundred_thousand_rows_keep_few_under_way(tmp_path):
    seen, most = 0, 0

    async def row(number):
        nonlocal seen, most
        seen += 1
        most = max(most, seen)
        await asyncio.sleep(0)
        seen -= 1
        return number

    found = asyncio.run(bounded(range(100_000), row, at_once=500))
    assert found == list(range(100_000)) and most <= 500
