"""Sizes of models from their configuration alone, against published figures."""

import pytest
from transformers import AutoConfig

from axolotl_safety.engines.gpu.sizes import model_size


def r1_distill_qwen_7b():
    """The published configuration of DeepSeek-R1-Distill-Qwen-7B, as far as sizes go."""
    return AutoConfig.for_model(
        "qwen2",
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
        max_position_embeddings=131072,
        tie_word_embeddings=False,
    )


def test_a_7b_has_the_published_sizes():
    size = model_size(r1_distill_qwen_7b())
    assert size.parameters == pytest.approx(7.616e9, rel=1e-3)  # the checkpoint's own count
    assert size.weight_bytes() == pytest.approx(15.23e9, rel=1e-3)
    assert size.kv_bytes_per_token() == 2 * 28 * 4 * 128 * 2  # 57,344 bytes
    # 6.5e9 parameters in matrices at 4.127 bits, 1.09e9 in embedding and head at 16
    assert size.weight_bytes(quantization="bitsandbytes") == pytest.approx(5.55e9, rel=0.01)
    assert 7.6e9 < size.weight_bytes(quantization="fp8") < 9e9
    assert size.window == 131072


def test_tied_embeddings_count_once():
    config = r1_distill_qwen_7b()
    untied = model_size(config).parameters
    config.tie_word_embeddings = True
    assert untied - model_size(config).parameters == 152064 * 3584


def test_an_unknown_quantisation_is_named():
    with pytest.raises(ValueError, match="awq.*bitsandbytes"):
        model_size(r1_distill_qwen_7b()).weight_bytes(quantization="awq")
