"""Sizes of models from their configuration alone, against published figures."""

import json
import shutil

import pytest
from transformers import AutoConfig

from axolotl_safety.commands.plan.plan import quantization_of
from axolotl_safety.commands.plan.training import from_axolotl, training_memory
from axolotl_safety.engines.base import ModelSpec
from axolotl_safety.engines.gpu.sizes import model_size
from axolotl_safety.engines.gpu.stored import StoredWeights, stored_weights
from axolotl_safety.engines.gpu.vllm_settings import read_needs
from axolotl_safety.engines.model_files import load_model_files
from axolotl_safety.util.errors import ConfigError


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


def quantised(folder, base, **said):
    """A checkpoint that says that it is quantised; its weights are not read."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": said}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("said", "method", "bits"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", 4),
        ({"load_in_8bit": True}, "bitsandbytes", 8),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq", 4),
        ({"quant_method": "awq", "bits": 4}, "awq", 4),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8),
        ({"quant_method": "mxfp4"}, "mxfp4", 4),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}},
            "compressed-tensors",
            4,
        ),
    ],
)
def test_plan_and_engine_read_the_same_of_a_checkpoint_that_is_quantised_already(tmp_path, models, said, method, bits):
    folder = quantised(tmp_path / "small", models("qwen3"), **said)
    files = load_model_files(str(folder), "base_model")
    written = (folder / "model.safetensors").stat().st_size
    assert files.stored == StoredWeights(method, bits, written)
    (need,) = read_needs({"target": ModelSpec(str(folder))}, on_cpu=False).values()
    size = model_size(files.config, files.stored)
    assert need.weight_bytes == size.weight_bytes("bfloat16", quantization_of(files)) == written
    assert training_memory(size, from_axolotl({"adapter": "lora", "load_in_8bit": True, "bf16": True})).weights < (
        written + 4 * size.parameters  # the adapter, and no second shrinking
    )


def test_a_checkpoint_that_is_nowhere_here_is_estimated_by_its_bits():
    config = r1_distill_qwen_7b()
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    stored = stored_weights("nobody/nowhere-gptq", config)
    assert stored == StoredWeights("gptq", 4, None)
    # 6.5e9 weights at 4 bits and their scales, embedding and head at 16
    assert model_size(config, stored).weight_bytes() == pytest.approx(5.63e9, rel=0.01)
    assert stored_weights("nobody/nowhere", r1_distill_qwen_7b()) is None


def test_quantising_what_is_quantised_in_another_way_is_refused(tmp_path, models):
    folder = quantised(tmp_path / "small", models("qwen3"), quant_method="gptq", bits=4)
    with pytest.raises(ConfigError, match=r"quantised already \(gptq, 4 bits\).*Remove the key"):
        load_model_files(str(folder), "base_model", quantization="bitsandbytes")
    folder = quantised(tmp_path / "same", models("qwen3"), quant_method="bitsandbytes", load_in_4bit=True)
    assert load_model_files(str(folder), "base_model", quantization="bitsandbytes").stored.bits == 4


@pytest.mark.parametrize("config", [True, False])
def test_an_adapter_as_base_model_is_refused_by_name(tmp_path, models, config):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    if config:  # Axolotl writes the model's beside an adapter
        shutil.copy(models("qwen3") / "config.json", folder)
    with pytest.raises(ConfigError, match="base_model .* is an adapter .*merge-lora.* 'some/base'"):
        load_model_files(str(folder), "base_model")
