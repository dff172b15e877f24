"""A coroutine is run to its end from ordinary code, in a notebook's running loop too."""

import asyncio
import time

import pytest

from axolotl_safety.util.loop import run_async


async def doubled(value):
    await asyncio.sleep(0)
    return 2 * value


async def failing():
    raise ValueError("no")


def test_what_it_returns_and_what_it_raises():
    assert run_async(doubled(4)) == 8
    with pytest.raises(ValueError, match="no"):
        run_async(failing())


def test_within_a_running_loop():
    async def cell():
        with pytest.raises(ValueError, match="no"):
            run_async(failing())
        return run_async(doubled(4))

    assert asyncio.run(cell()) == 8


def test_what_it_returns_is_not_spelt_out():
    class Large:
        def __repr__(self):
            raise AssertionError("nobody reads this")

    async def large():
        return Large()

    assert isinstance(run_async(large()), Large)


def test_an_interruption_within_a_running_loop_ends_the_coroutine(monkeypatch):
    ended = []

    async def long():
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(time.monotonic())

    def interrupted(self, timeout=None):
        time.sleep(0.3)
        raise KeyboardInterrupt

    async def cell():
        monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
        run_async(long())

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(cell())
    assert len(ended) == 1 and ended[0] - started < 5
