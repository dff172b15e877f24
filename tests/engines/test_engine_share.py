"""How the models of one engine share a card. Sizes are those of real models, by arithmetic."""

import json
from dataclasses import replace

import pytest
from support.engines import tiny_model

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.base import ModelSpec
from axolotl_safety.engines.gpu.gpus import Gpu
from axolotl_safety.engines.gpu.share import Need, cpu_cache_bytes, divide, group_size
from axolotl_safety.engines.gpu.vllm_settings import read_needs, worker_options
from axolotl_safety.util.errors import ConfigError

GB, GIB = 10**9, 2**30
# A 7B target of Qwen2.5's shape (28 layers, 4 heads of 128 for keys and values) and a 0.6B guard of Qwen3's.
BF16 = Need(15_200_000_000, 57_344, 152_064, 28, 8192)
NF4 = Need(5_500_000_000, 57_344, 152_064, 28, 8192)
GUARD = Need(1_500_000_000, 114_688, 151_936, 16, 8192)


def divided(target, total=24 * GIB, free=None, utilization=0.9, sequences=64, group=1, **guards):
    return divide({"target": target, **guards}, total, free or total, utilization, sequences, group)


def test_a_small_target_and_its_guard_live_beside_each_other():
    shares = divided(NF4, guard0=GUARD)
    assert not shares["target"].alone and not shares["guard0"].alone
    assert sum(share.gpu_bytes for share in shares.values()) <= 0.9 * 24 * GIB
    room = shares["target"].gpu_bytes - NF4.floor_bytes(64, 1)
    assert room >= 8 * NF4.sequence_bytes
    assert shares["guard0"].gpu_bytes >= GUARD.floor_bytes(64, 1) + GUARD.sequence_bytes


def test_a_target_that_fills_the_card_takes_turns_with_its_guard():
    shares = divided(BF16, guard0=GUARD)
    assert all(share.alone for share in shares.values())
    assert shares["target"].gpu_bytes == shares["guard0"].gpu_bytes <= 0.9 * 24 * GIB
    assert divided(BF16)["target"].alone is False  # nobody to take turns with


def test_what_others_hold_is_not_given_away():
    free = 10 * GIB
    shares = divided(NF4, free=free)
    assert shares["target"].gpu_bytes < free
    assert (
        divided(NF4, free=22 * GIB, guard0=GUARD)["target"].gpu_bytes < divided(NF4, guard0=GUARD)["target"].gpu_bytes
    )
    assert divided(NF4, free=12 * GIB, guard0=GUARD)["guard0"].alone


def test_the_target_is_left_with_eight_sequences_or_takes_turns():
    edge = next(size for size in range(10, 40) if not divided(NF4, total=size * GIB, guard0=GUARD)["target"].alone)
    for size in range(12, 60):
        shares = divided(NF4, total=size * GIB, guard0=GUARD)
        assert shares["target"].alone == (size < edge)
        if not shares["target"].alone:
            assert shares["target"].gpu_bytes - NF4.floor_bytes(64, 1) >= 8 * NF4.sequence_bytes


def test_what_does_not_fit_even_alone_is_refused_with_its_figures():
    with pytest.raises(ConfigError, match=r"target needs \d+\.\d GB on each of 1 GPU(.|\n)*quantization"):
        divided(BF16, total=16 * GIB)
    assert divided(BF16, total=16 * GIB, group=2)["target"].gpu_bytes < 16 * GIB
    with pytest.raises(ConfigError, match="guard0 needs"):
        divided(NF4, total=16 * GIB, guard0=BF16)


def grouped(target, total=24 * GIB, cards=8, **guards):
    return group_size({"target": target, **guards}, total, 0.9, 256, cards)


def test_a_model_goes_over_as_few_cards_as_leave_it_room():
    assert grouped(BF16) == 1  # 15.2 GB of weights on 24 GiB: 8 sequences of 8,192 tokens fit beside them
    assert grouped(replace(BF16, longest=32_768)) == 2  # but not 8 of four times the length
    assert grouped(BF16, total=16 * GIB) == 2
    assert grouped(replace(BF16, weight_bytes=65 * GB, heads=64)) == 4
    assert grouped(BF16, guard0=replace(BF16, heads=32)) == 1  # in turn, each alone on one card
    # 65.5 GB on 80 GiB would fit alone, with 6 GB for keys and values
    big = Need(65_500_000_000, 262_144, 152_064, 40, 8192)
    assert group_size({"target": big}, 80 * GIB, 0.9, 256, 2) == 2
    assert group_size({"target": big}, 80 * GIB, 0.9, 256, 1) == 1


def test_what_no_group_holds_is_refused_with_the_heads():
    with pytest.raises(ConfigError, match=r"on each of 4 GPU(.|\n)*8 GPU\(s\)(.|\n)*target: 28"):
        grouped(replace(BF16, weight_bytes=100 * GB))  # 28 heads: no group of 8
    with pytest.raises(ConfigError, match=r"on each of 1 GPU(.|\n)*1 GPU\(s\)"):
        grouped(BF16, total=16 * GIB, cards=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model("qwen3").save_pretrained(folder)
    return {"target": ModelSpec(str(folder), max_model_len=200), "guard0": ModelSpec(str(folder), dtype="bfloat16")}


def test_sizes_come_from_the_configuration(models):
    needs = read_needs(models, on_cpu=True)
    # 4 layers, keys and values, 2 heads of 8 values, 4 bytes each
    assert needs["target"].kv_bytes_per_token == 4 * 2 * 2 * 8 * 4 and needs["target"].longest == 200
    assert needs["guard0"].kv_bytes_per_token == 4 * 2 * 2 * 8 * 2 and needs["guard0"].longest == 256
    parameters = sum(parameter.numel() for parameter in tiny_model("qwen3").parameters())
    assert needs["target"].weight_bytes == 4 * parameters and needs["guard0"].weight_bytes == 2 * parameters
    assert needs["target"].vocabulary == 101


def test_the_worker_is_told_shares_on_a_gpu_and_cache_bytes_on_a_cpu(models):
    needs = {"target": NF4, "guard0": GUARD}
    cards = [Gpu("0", 24 * GIB, 0, {}), Gpu("1", 24 * GIB, 4 * GIB, {})]
    options = worker_options(EngineConfig(backend="vllm", max_num_seqs=64), needs, cards[:1], 1)
    given = {name: told["gpu_memory_utilization"] for name, told in options["memory"].items()}
    assert 0.85 < sum(given.values()) <= 0.9 and given["guard0"] < given["target"]
    assert options["max_num_seqs"] == 64 and json.loads(json.dumps(options)) == options
    tighter = worker_options(EngineConfig(backend="vllm", max_num_seqs=64), needs, cards, 1)
    assert tighter["memory"]["target"]["gpu_memory_utilization"] < given["target"]  # the fuller card decides
    eager = EngineConfig(backend="vllm", enforce_eager=True, enable_prefix_caching=False)
    on_cpu = worker_options(eager, read_needs(models, on_cpu=True), [], 1)
    assert on_cpu["memory"]["target"] == {"kv_cache_memory_bytes": 256 << 20}
    assert on_cpu["enforce_eager"] and not on_cpu["enable_prefix_caching"] and on_cpu["max_num_seqs"] == 256


def test_a_cpu_always_holds_one_sequence():
    assert cpu_cache_bytes(NF4) == 2 * GIB
    assert cpu_cache_bytes(Need(1, 10**6, 10, 1, 8192)) == 8192 * 10**6
