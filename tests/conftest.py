"""Fixtures: tiny models once per session, and an Axolotl config without Axolotl's command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny

from axolotl_safety.cli.demo import OFFLINE

# Before anything imports Axolotl or transformers: tests never touch a hub and send nothing anywhere.
os.environ.update(OFFLINE)


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
