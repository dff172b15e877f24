"""What the worker makes of an adapter: a vocabulary that training made larger, a base that is quantised already."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import engines, tiny
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from loading import load  # isort: skip

torch.set_num_threads(1)
assert engines  # which puts the worker on the path
IDS = torch.tensor([[5, 9, 30, 7]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("base"))


def trained(base, folder, rows=None, quantised=False, targets=("q_proj", "v_proj"), **kept):
    """An adapter with weights that do something, saved as peft saves it, and what it says to the ids."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows)
    config = LoraConfig(r=4, target_modules=list(targets), **kept)
    model = get_peft_model(model, config)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    model.save_pretrained(folder)
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize(
    ("more", "targets", "kept"),
    [
        (3, ("q_proj", "v_proj"), {}),  # peft sees another vocabulary, and saves embedding and head
        (-4, ("q_proj",), {}),  # shrink_embeddings
        (32, ("q_proj",), {"modules_to_save": ["embed_tokens", "lm_head"]}),
        (3, ("q_proj", "embed_tokens"), {}),
        (3, ("q_proj", "lm_head"), {}),
        (0, ("q_proj",), {}),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_with_another_vocabulary_says_what_it_said_in_training(tmp_path, more, targets, kept, tied):
    base = tiny.make_model(tmp_path / "base", tie_word_embeddings=tied)
    rows = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight.shape[0] + more
    if tied and kept:
        kept = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    said = trained(base, tmp_path / "adapter", rows, targets=targets, **copy.deepcopy(kept))
    loaded = load({"path": str(base), "dtype": "float32", "adapter": str(tmp_path / "adapter")})
    assert loaded.vocabulary == rows
    with torch.no_grad():
        logits = loaded.model(input_ids=IDS).logits
    assert logits.shape == said.shape
    assert torch.allclose(logits, said, atol=1e-4)


@pytest.mark.parametrize("kept", [{}, {"modules_to_save": ["lm_head", "embed_tokens"]}])
def test_an_adapter_is_not_merged_into_a_base_that_is_quantised_already(tmp_path, base, kept):
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    small = AutoModelForCausalLM.from_pretrained(base, quantization_config=four, device_map={"": "cpu"})
    small.save_pretrained(tmp_path / "small")
    trained(base, tmp_path / "adapter", **kept)
    bare = load({"path": str(tmp_path / "small"), "dtype": "float32"}).model
    loaded = load({"path": str(tmp_path / "small"), "dtype": "float32", "adapter": str(tmp_path / "adapter")}).model
    layer = loaded.model.layers[0].self_attn.q_proj
    assert torch.equal(layer.base_layer.weight, bare.model.layers[0].self_attn.q_proj.weight)  # not rounded again
    with torch.no_grad():
        assert not torch.allclose(loaded(input_ids=IDS).logits, bare(input_ids=IDS).logits, atol=1e-3)
