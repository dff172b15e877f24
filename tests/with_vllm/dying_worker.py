"""The worker, with a vLLM that dies of one request: the one whose prompt begins with three 97."""

import runpy
import sys
from pathlib import Path

WORKER = Path(__file__).resolve().parents[2] / "axolotl_safety" / "engines" / "worker"
sys.path.insert(0, str(WORKER))

import vllm_backend  # noqa: E402

build = vllm_backend.VllmBackend.__init__


def build_and_poison(backend, *args):
    build(backend, *args)
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    finish = CachedRequestState.__post_init__

    def die_of_it(state):
        if state.prompt_token_ids[:3] == [97, 97, 97]:
            raise RuntimeError("CUDA error: device-side assert triggered")
        finish(state)

    CachedRequestState.__post_init__ = die_of_it


vllm_backend.VllmBackend.__init__ = build_and_poison
runpy.run_path(str(WORKER), run_name="__main__")
