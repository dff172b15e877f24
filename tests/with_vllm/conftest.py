"""Tests with a real vLLM on a CPU. `make test` and `make test-vllm` make an environment for them."""

from __future__ import annotations

import os

import pytest
import torch
from support.engines import Driven, is_running, tiny_model
from wide import LONG_ROW, WIDE

from axolotl_safety.engines.base import ModelSpec
from axolotl_safety.engines.local.engine import WorkerEngine

VARIABLE = "AXOLOTL_SAFETY_VLLM_PYTHON"


@pytest.fixture(scope="session")
def vllm_python():
    """The interpreter that has vLLM."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} does not name an interpreter with vLLM; `make test-vllm` makes one")
    return python


@pytest.fixture(scope="session")
def folders(vllm_python, tmp_path_factory):
    """Random models in float32: ``target``, ``guard0``, and ``wide`` with a real vocabulary and a long window."""
    root = tmp_path_factory.mktemp("vllm-models")
    tiny_model("qwen3", seed=1, head_dim=32).save_pretrained(root / "target")
    tiny_model("llama", seed=2, head_dim=32).save_pretrained(root / "guard0")
    wide = {"vocab_size": WIDE, "hidden_size": 64, "num_hidden_layers": 1, "max_position_embeddings": LONG_ROW + 96}
    model = tiny_model("qwen3", seed=3, head_dim=32, tie_word_embeddings=True, **wide)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.07)  # logits as small as a fresh model's: a sum over 3,000 tokens keeps its digits
    model.save_pretrained(root / "wide")
    return root


@pytest.fixture(scope="session")
def specs(folders):
    return {name: ModelSpec(str(folders / name)) for name in ("target", "guard0", "wide")}


@pytest.fixture(scope="session")
def make_engine(vllm_python, specs):
    """A function that makes an engine with these models; sixteen rows at once."""

    def make(work, **kw):
        kw = {"batch_size": 16, "threads": 1, "options": {"max_num_seqs": 16}} | kw
        return Driven(WorkerEngine("vllm", work, specs, python=vllm_python, **kw))

    return make


@pytest.fixture(scope="session")
def engine(make_engine, tmp_path_factory):
    """One child for all tests that leave it whole: its start is what costs."""
    made = make_engine(tmp_path_factory.mktemp("vllm-work"))
    yield made
    made.close()
    assert not any(map(is_running, made.figures.pids))
