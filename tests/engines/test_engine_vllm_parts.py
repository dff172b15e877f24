"""The parts of the vLLM worker that need no vLLM: its arguments, and ending what it starts."""

import os
import signal
import subprocess
import sys

import pytest
from support.engines import WORKER, is_running, tiny_model, wait_until

from protocol import LoadError  # isort: skip
from vllm_options import arguments, prefill_chunk


@pytest.mark.parametrize("vocabulary", [32_000, 128_256, 152_064, 262_144])
def test_the_logits_of_a_piece_stay_small(vocabulary):
    chunk = prefill_chunk(vocabulary)
    assert 0.5 * 300e6 < chunk * vocabulary * 4 * 3 <= 300e6 and chunk % 32 == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    tiny_model("qwen3", vocab_size=40_000, max_position_embeddings=2048, tie_word_embeddings=True).save_pretrained(
        folder
    )
    return str(folder)


def told(folder, spec=(), memory=(), on_cpu=True, **options):
    return arguments({"path": folder, **dict(spec)}, {"max_num_seqs": 8, **options}, dict(memory), on_cpu)


def test_what_vllm_is_told(folder):
    on_cpu = told(folder)
    assert on_cpu["dtype"] == "float32" and on_cpu["enforce_eager"] and on_cpu["kv_cache_memory_bytes"] > 0
    assert on_cpu["enable_chunked_prefill"] and on_cpu["long_prefill_token_threshold"] == prefill_chunk(40_000) == 608
    # vLLM refuses a piece that is longer than the window
    assert "long_prefill_token_threshold" not in told(folder, {"max_model_len": 500})
    assert told(folder, {"max_model_len": 700})["max_model_len"] == 700
    memory = {"gpu_memory_utilization": 0.7}
    on_gpu = told(folder, {"quantization": "fp8"}, memory, on_cpu=False, tensor_parallel_size=2)
    assert on_gpu["gpu_memory_utilization"] == 0.7 and "kv_cache_memory_bytes" not in on_gpu
    assert on_gpu["dtype"] == "auto" and on_gpu["quantization"] == "fp8" and on_gpu["tensor_parallel_size"] == 2
    assert not on_gpu["enforce_eager"] and on_gpu["enable_prefix_caching"]


def test_what_cannot_be_loaded_is_said_with_the_way_out(folder, monkeypatch):
    with pytest.raises(LoadError, match="no such folder"):
        told("/no/such/model")
    with pytest.raises(LoadError, match="config"):
        told(str(WORKER))
    with pytest.raises(LoadError, match="CPU"):
        told(folder, {"quantization": "bitsandbytes"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LoadError) as caught:
        told(folder, {"quantization": "bitsandbytes"}, on_cpu=False)
    assert "vllm-bnb-plugin" in caught.value.hint
    with pytest.raises(LoadError, match="awq"):
        told(folder, {"quantization": "awq"}, on_cpu=False)


STUBBORN = """
import multiprocessing, os, signal, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import descendants, lifeline

def child():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), subprocess.Popen(["sleep", "100"]).pid, flush=True)
    time.sleep(100)

lifeline.guard_group()
multiprocessing.get_context("fork").Process(target=child).start()
sys.stdin.readline()
descendants.end_children(0.3)
print("ended", flush=True)
multiprocessing.get_context("fork").Process(target=child).start()
sys.stdin.readline()
"""


def test_children_that_will_not_go_are_killed_with_theirs_and_none_outlives_a_sigkill():
    command = [sys.executable, "-c", STUBBORN, str(WORKER)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
    first = [int(pid) for pid in process.stdout.readline().split()]
    assert all(map(is_running, first))
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ended\n"
    assert not any(map(is_running, first))
    second = [int(pid) for pid in process.stdout.readline().split()]
    assert all(map(is_running, second))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()  # not for the end of its pipes, which its children hold too
    wait_until(lambda: not any(map(is_running, second)), 5)
    process.stdin.close()
    process.stdout.close()
