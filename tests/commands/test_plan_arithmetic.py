"""The plan's arithmetic against figures that others published or measured."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from support.shapes import published

from axolotl_safety.commands.plan.cards import CARDS, named_card, reported_card
from axolotl_safety.commands.plan.memory import LoadedModel, transformers_memory, vllm_memory
from axolotl_safety.commands.plan.speed import (
    RANGE,
    Efficiency,
    Phase,
    combined,
    phase_seconds,
    step_seconds,
    total_seconds,
)
from axolotl_safety.commands.plan.training import Training, from_axolotl, training_memory
from axolotl_safety.engines.gpu.share import divide
from axolotl_safety.engines.gpu.sizes import ModelSize, model_size
from axolotl_safety.util.errors import ConfigError

QWEN_1B = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
QWEN_7B = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
LLAMA_8B = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
QWEN3_8B = "Qwen/Qwen3-8B"
GUARD = "Qwen/Qwen3Guard-Gen-0.6B"
RTX4090 = CARDS["rtx4090"]


@cache
def size(name: str) -> ModelSize:
    return model_size(published(name))


def resident(name: str, quantization: str | None = None, longest: int = 4096, usual: int = 1500, key: str = "target"):
    return LoadedModel(key, size(name), "bfloat16", quantization, longest, usual)


@pytest.mark.parametrize(("name", "kib"), [(LLAMA_8B, 128), (QWEN3_8B, 144), (QWEN_7B, 56), (QWEN_1B, 28)])
def test_keys_and_values_of_a_token(name, kib):
    assert size(name).kv_bytes_per_token() == kib * 1024


@pytest.mark.parametrize(
    ("name", "quantization", "low", "high"),
    [  # tokens of cache on 24 GB at 0.9: what vLLM reports lies below the bare division by a tenth to a quarter
        (LLAMA_8B, None, 31_000, 39_000),
        (LLAMA_8B, "fp8", 80_000, 102_000),
        (QWEN3_8B, None, 26_000, 34_000),
        (QWEN3_8B, "fp8", 70_000, 90_000),
        (QWEN_7B, None, 82_000, 108_000),
        (QWEN_1B, None, 560_000, 640_000),
    ],
)
def test_cache_of_a_24_gb_card(name, quantization, low, high):
    (seat,) = vllm_memory([resident(name, quantization)], RTX4090.memory_bytes).seats
    assert low < seat.tokens < high


def test_what_fits_which_card():
    """16 GB of weights do not fit 16 GB; in 4 bit they take 5.5 to 6 and leave room (12 GB too)."""
    small, medium = CARDS["rtx3060"].memory_bytes, CARDS["rtx4080"].memory_bytes
    assert not vllm_memory([resident(LLAMA_8B)], medium).fits
    assert vllm_memory([resident(LLAMA_8B, "bitsandbytes")], medium).fits
    assert vllm_memory([resident(LLAMA_8B, "bitsandbytes")], small).fits
    assert not vllm_memory([resident(LLAMA_8B)], small).fits
    assert vllm_memory([resident(QWEN_1B)], small).fits


def test_a_guard_takes_its_share_of_the_card():
    guard = resident(GUARD, longest=4600, key="guard0")
    alone = vllm_memory([resident(LLAMA_8B, "fp8")], RTX4090.memory_bytes)
    both = vllm_memory([resident(LLAMA_8B, "fp8"), guard], RTX4090.memory_bytes)
    target, seat = both.seats
    assert not both.in_turn and seat.slots >= 1 and seat.tokens >= seat.longest
    taken = seat.weight_bytes + seat.overhead_bytes + seat.cache_bytes
    assert alone.seats[0].cache_bytes - target.cache_bytes == pytest.approx(taken, abs=2)
    assert sum(one.weight_bytes + one.overhead_bytes + one.cache_bytes for one in both.seats) <= both.capacity_bytes


def test_what_does_not_fit_together_is_loaded_in_turn_as_the_engine_does():
    models = [resident(LLAMA_8B), resident(GUARD, longest=4600, key="guard0")]
    memory = vllm_memory(models, RTX4090.memory_bytes)
    assert memory.in_turn and memory.fits
    assert memory.seats[0] == vllm_memory(models[:1], RTX4090.memory_bytes).seats[0]
    assert memory.seats[1].cache_bytes > memory.seats[0].cache_bytes
    for size in CARDS.values():  # the engine's own word, on every card
        needs = {model.name: model.need for model in models}
        try:
            shares = divide(needs, size.memory_bytes, size.memory_bytes, 0.9, 256)
        except ConfigError:
            shares = None
        memory = vllm_memory(models, size.memory_bytes)
        assert memory.fits == (shares is not None)
        assert shares is None or memory.in_turn == shares["target"].alone


def test_two_cards_hold_what_one_cannot():
    card = CARDS["rtx4080"].memory_bytes
    assert not vllm_memory([resident(LLAMA_8B)], card).fits
    assert vllm_memory([resident(LLAMA_8B)], card, parallel=2).fits


def test_fewer_slots_and_no_graphs_leave_more_cache():
    plain = vllm_memory([resident(LLAMA_8B)], RTX4090.memory_bytes).seats[0]
    lean = vllm_memory([resident(LLAMA_8B)], RTX4090.memory_bytes, max_num_seqs=16, eager=True).seats[0]
    assert lean.tokens > plain.tokens and lean.slots == 16


def test_the_transformers_worker_halves_its_batch_until_it_fits():
    whole = transformers_memory([resident(QWEN_7B)], RTX4090.memory_bytes, 32).seats[0]
    assert 1 <= whole.slots < 32
    assert transformers_memory([resident(QWEN_1B)], RTX4090.memory_bytes, 8).seats[0].slots == 8
    assert not transformers_memory([resident(QWEN_7B)], CARDS["rtx3060"].memory_bytes, 8).fits


@pytest.mark.parametrize(("name", "measured"), [(LLAMA_8B, 2400), (QWEN_7B, 3600), (QWEN_1B, 8300)])
def test_generation_speed_of_a_4090(name, measured):
    """databasemart's figures for vLLM: 300 requests of 100 + 600 tokens, tokens written per second."""
    model = resident(name, longest=700, usual=400)
    (seat,) = vllm_memory([model], RTX4090.memory_bytes).seats
    phase = Phase("answers", "target", 300, 300 * 100, 300 * 600, 600, guessed=False)
    rate = {key: 300 * 600 / phase_seconds(phase, model, seat, RTX4090, value) for key, value in RANGE.items()}
    assert rate["middle"] == pytest.approx(measured, rel=0.25)
    assert rate["slow"] < measured < rate["fast"]


def test_a_step_is_the_slower_of_memory_and_arithmetic():
    perfect = Efficiency(1.0, 1.0, 0.0)
    model = resident(QWEN_7B)
    read = model.weight_bytes + 4 * 1000 * 57_344
    assert step_seconds(model, RTX4090, 4, 1000, perfect) == pytest.approx(read / 1.008e12, rel=1e-6)
    many = step_seconds(model, RTX4090, 4096, 1, perfect)
    assert many == pytest.approx(2 * 7.6156e9 * 4096 / 165e12, rel=1e-3)
    # 4-bit weights are unpacked to 16 bits, written and read again: no gain in time
    packed = step_seconds(resident(QWEN_7B, "bitsandbytes"), RTX4090, 4, 1000, perfect)
    assert packed > step_seconds(model, RTX4090, 4, 1000, perfect)


def test_time_is_unknown_without_figures_and_halves_with_two_copies():
    model = resident(QWEN_7B)
    (seat,) = vllm_memory([model], RTX4090.memory_bytes).seats
    phases = [Phase("answers", "target", 10_000, 1e6, 1e7, 4096)]
    models, seats = {"target": model}, {"target": seat}
    one = total_seconds(phases, models, seats, RTX4090)
    two = total_seconds(phases, models, seats, RTX4090, copies=2)
    assert one["fast"] < one["middle"] < one["slow"]
    assert two["middle"] == pytest.approx(one["middle"] / 2, rel=0.05)
    assert total_seconds(phases, models, seats, replace(RTX4090, bandwidth=None)) is None
    assert combined(RTX4090, 2).bandwidth == pytest.approx(1.8 * RTX4090.bandwidth)


@pytest.mark.parametrize(("tokens", "measured"), [(1024, 6), (2048, 7), (4096, 9), (8192, 12), (16384, 19)])
def test_qlora_memory_of_a_7b_by_context(tokens, measured):
    """LLaMA-Factory's wiki: Llama-2-7B, 4 bit, r 8, batch 1, FlashAttention-2, GB."""
    training = Training("qlora", "bitsandbytes", 8, ("q_proj", "v_proj"), "adamw_torch", tokens, True, 12)
    found = training_memory(size("meta-llama/Llama-2-7b"), training)
    assert found.total / 1e9 == pytest.approx(measured, rel=0.12)


def test_trained_parameters_of_an_adapter():
    """PEFT's own count for r 8 on the query and value projections of Llama-2-7B is 4,194,304."""
    training = Training("lora", None, 8, ("q_proj", "v_proj"), "adamw_torch", 1024, True, 12)
    assert training_memory(size("meta-llama/Llama-2-7b"), training).trained == 4_194_304
    everywhere = replace(training, targets=None, rank=16)
    assert training_memory(size("meta-llama/Llama-2-7b"), everywhere).trained == 39_976_960  # PEFT's, all linear, r 16


def test_a_full_fine_tune_holds_weights_gradients_and_two_states():
    training = Training(None, None, 8, None, "adamw_torch", 1024, True, 12)
    found = training_memory(size(QWEN_1B), training)
    assert found.trained == size(QWEN_1B).parameters
    assert found.weights + found.gradients + found.optimizer == 8 * found.trained  # all in bfloat16
    eight = training_memory(size(QWEN_1B), replace(training, optimizer="adamw_bnb_8bit"))
    assert eight.optimizer == 2 * found.trained
    assert training_memory(size(QWEN_1B), replace(training, optimizer="paged_adamw_8bit")).optimizer == 0
    assert training_memory(size(QWEN_1B), replace(training, optimizer="lion_8bit")).optimizer == found.trained
    chunked = training_memory(size(QWEN_1B), replace(training, logit_bytes=0, tokens=16384))
    assert chunked.logits < training_memory(size(QWEN_1B), replace(training, tokens=16384)).logits / 10
    assert training_memory(size(QWEN_1B), replace(training, copy=True)).weights == 2 * found.weights


def test_training_is_read_from_axolotl():
    config = {
        "adapter": "qlora",
        "load_in_4bit": True,
        "lora_r": 32,
        "lora_target_modules": ["q_proj", "model.layers.0.v_proj"],
        "optimizer": "paged_adamw_8bit",
        "sequence_len": 4096,
        "micro_batch_size": 2,
        "gradient_checkpointing": True,
        "bf16": "auto",
    }
    assert from_axolotl(config) == Training(
        "qlora", "bitsandbytes", 32, ("q_proj", "v_proj"), "paged_adamw_8bit", 8192, True, 12
    )
    assert from_axolotl(config | {"lora_target_linear": True}).targets is None
    assert from_axolotl(config | {"cut_cross_entropy": True}).logit_bytes == 0
    assert from_axolotl(config | {"chunked_cross_entropy": True}).logit_bytes == 8
    with_kl = from_axolotl(config | {"adapter": None, "safety": {"kl": {"mode": "replace"}}})
    assert with_kl.copy and not with_kl.logit_bytes


def test_cards_by_name():
    assert named_card("RTX 4090") is named_card("4090") is CARDS["rtx4090"]
    assert named_card("a10") is CARDS["a10"] and named_card("l4") is CARDS["l4"]
    with pytest.raises(ConfigError, match="did you mean a100-40 or a100-80"):
        named_card("a100")
    with pytest.raises(ConfigError, match="did you mean rtx4090"):
        named_card("rtx4091")


def test_cards_as_the_driver_calls_them():
    assert reported_card("NVIDIA GeForce RTX 4090", 24564 << 20) == CARDS["rtx4090"]
    assert reported_card("NVIDIA A100-SXM4-80GB", 81920 << 20) == CARDS["a100-80"]
    assert reported_card("NVIDIA A100-PCIE-40GB", 40960 << 20) == CARDS["a100-40"]
    assert reported_card("Tesla T4", 15360 << 20) == CARDS["t4"]
    assert reported_card("NVIDIA L40S", 46068 << 20) == CARDS["l40s"]
    assert reported_card("NVIDIA GeForce RTX 4060 Ti", 16380 << 20) == CARDS["rtx4060ti-16"]
    for other in ("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3060 Ti", "NVIDIA TITAN V"):
        assert reported_card(other, 8 << 30).bandwidth is None
