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
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main)
    result: Future[Found] = Future()
    cancel = threading.Event()

    async def cancellable() -> Found:
        task = asyncio.ensure_future(main)
        while not (await asyncio.wait([task], timeout=0.2))[0]:
            if cancel.is_set():
                task.cancel()
        return task.result()

    def work() -> None:
        try:
            result.set_result(asyncio.run(cancellable()))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        return result.result()
    finally:
        cancel.set()
        thread.join()
