"""A decode step on a CPU attends in groups: what transformers gives, without its copies of keys and values."""

import pytest
import torch
from support.engines import ragged_prompts, tiny_model
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from decode import ContinuousDecoder  # isort: skip
import attention
from items import GenerateItem
from loading import inspect_model

torch.set_num_threads(1)


class Layer(torch.nn.Module):
    """What transformers' function asks of a layer."""

    def __init__(self, groups):
        super().__init__()
        self.num_key_value_groups, self.is_causal = groups, True


def tensors(heads, groups, new=1, columns=37, dtype=torch.float32):
    torch.manual_seed(heads * 100 + groups)
    query_BHTD = torch.randn(3, heads, new, 16).to(dtype)
    key_BGSD, value_BGSD = (torch.randn(3, groups, columns + 5, 16).to(dtype)[:, :, :columns] for _ in range(2))
    seen_B = torch.tensor([37, 12, 1])
    return query_BHTD, key_BGSD, value_BGSD, (torch.arange(columns) < seen_B[:, None])[:, None, None, :]


@pytest.mark.parametrize(("heads", "groups"), [(14, 2), (8, 1), (6, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_see_what_heads_see(heads, groups, dtype):
    query, key, value, mask = tensors(heads, groups, dtype=dtype)
    layer = Layer(heads // groups)
    found, none = attention.grouped_attention(layer, query, key, value, mask, scaling=0.3)
    wanted, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=0.3)
    assert none is None and found.shape == wanted.shape == (3, 1, heads, 16)
    torch.testing.assert_close(found, wanted, atol=1e-6 if dtype is torch.float32 else 2e-2, rtol=0)
    additive = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(
        attention.grouped_attention(layer, query, key, value, additive, scaling=0.3)[0], found, atol=2e-2, rtol=0
    )
    other = value.clone()
    other[1, :, 12:] = 1e4  # hidden from row 1
    assert torch.equal(attention.grouped_attention(layer, query, key, other, mask, scaling=0.3)[0], found)


@pytest.mark.parametrize("why", ["several tokens", "no groups", "no mask", "a mask per head"])
def test_everything_else_is_transformers_own(why, monkeypatch):
    query, key, value, mask = tensors(4, 4 if why == "no groups" else 2, new=2 if why == "several tokens" else 1)
    if why == "a mask per head":
        mask = mask.expand(3, 4, 1, 37)
    calls = []
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *args, **options: calls.append((args, options)))
    attention.grouped_attention(Layer(2), query, key, value, None if why == "no mask" else mask, dropout=0.0)
    ((args, options),) = calls
    assert args[1] is query and args[2] is key and options == {"dropout": 0.0}


def test_decoding_draws_the_same_tokens_and_copies_nothing(monkeypatch):
    model = tiny_model("qwen2")
    config = model.config
    assert config.num_attention_heads > config.num_key_value_heads, "no groups, nothing to test"
    prompts = ragged_prompts(3, 9)

    def drawn():
        decoder = ContinuousDecoder(inspect_model(model, torch.device("cpu")), 4, lambda message: None)
        for number, prompt in enumerate(prompts):
            decoder.add(GenerateItem(number, f"r{number}", "m", prompt, 0.0, 1.0, 0, 12, 5, frozenset()))
        messages = []
        while decoder.busy:
            messages += decoder.step()
        return {message["id"]: message["tokens"] for message in messages}

    plain = drawn()
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", attention.grouped_attention)
    lengths = []

    def watched(module, query, *rest, **options):
        lengths.append(query.shape[2])
        return sdpa_attention_forward(module, query, *rest, **options)

    monkeypatch.setattr(attention, "sdpa_attention_forward", watched)
    assert drawn() == plain
    # Transformers' own function saw the prefill alone, and the single token of `inspect_model`, which has no columns.
    assert (
        max(lengths) == max(map(len, prompts)) and len([one for one in lengths if one == 1]) <= config.num_hidden_layers
    )
