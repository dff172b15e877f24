"""Fixtures: tiny models once per session, and an Axolotl config without Axolotl's command line."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.fake_server import FakeServer
from support.record import write_record

from axolotl_safety.commands.demo import OFFLINE

# With two workers the longest files must not come last; the rest keeps its order.
LONG = (
    "test_yaml",
    "test_kill",
    "test_vllm_faults",
    "test_e2e_train",
    "test_vllm_server",
    "test_vllm_stage",
    "test_ray",
)

# Before anything imports Axolotl or transformers: tests never touch a hub and send nothing anywhere.
os.environ.update(OFFLINE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave a record of what was run with what, where RECORD names a folder for it."""
    folder = os.environ.get("RECORD")
    if folder and not hasattr(session.config, "workerinput"):
        write_record(Path(folder), session.config)


@pytest.fixture(autouse=True)
def _loggers_as_made():
    """What a test, a command or a library in this process did to the package's loggers does not reach this test.

    import-linter, for one, disables every logger that it finds when it is imported.
    """
    logging.disable(logging.NOTSET)
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "axolotl_safety"]:
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.disabled = False


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory):
    """Path of a tiny random model by style and kind of markers, made once."""
    made: dict[tuple[str, str], Path] = {}
    root = tmp_path_factory.mktemp("models")

    def get(style: str = "qwen3", markers: str = "added") -> Path:
        key = (style, markers)
        if key not in made:
            made[key] = tiny.make_model(root / f"{style}-{markers}", style, markers)
        return made[key]

    return get


@pytest.fixture
def serve():
    """Starts servers that answer as they are told."""
    servers: list[FakeServer] = []

    def start(reply: Callable[[str, int], Any], models: tuple[int, Any] | None = None) -> FakeServer:
        servers.append(FakeServer(reply, models or (200, {"data": [{"id": "judge"}]})))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
