"""Run a coroutine to its end from ordinary code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Found = TypeVar("Found")


def run_async(main: Coroutine[Any, Any, Found]) -> Found:
    """``asyncio.run``, and where a loop runs already (in a notebook, say) the same in a thread of its own.

    Raises:
        KeyboardInterrupt: after the coroutine was cancelled and has come to its end.
    """
    result: Future[Found] = Future()
    cancel = threading.Event()

    async def kept() -> None:  # asyncio.run spells out what its task returns, be it a million rows
        result.set_result(await main)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(kept())
        return result.result()

    async def cancellable() -> None:
        task = asyncio.ensure_future(kept())
        while not (await asyncio.wait([task], timeout=0.2))[0]:
            if cancel.is_set():
                task.cancel()
        task.result()

    def work() -> None:
        try:
            asyncio.run(cancellable())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        return result.result()
    finally:
        cancel.set()
        thread.join()
