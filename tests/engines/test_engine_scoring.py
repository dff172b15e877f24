"""Scores equal the plain computation, for heads of every sort, within bounded memory."""

import pytest
import torch
from support.engines import ragged_prompts, tiny_model

import scoring  # isort: skip
from items import ScoreItem
from loading import inspect_model
from scoring import Scorer

torch.set_num_threads(1)


def items_of(count, seed=0):
    pairs = zip(ragged_prompts(count, seed=seed), ragged_prompts(count, seed=seed + 50), strict=True)
    return [ScoreItem(i, f"s{i}", "m", prompt, response) for i, (prompt, response) in enumerate(pairs)]


def plain(model, item):
    with torch.no_grad():
        logprobs = model(torch.tensor([item.prompt + item.response])).logits[0].double().log_softmax(-1)
    start = len(item.prompt)
    return sum(float(logprobs[start + j - 1, token]) for j, token in enumerate(item.response))


def scored(scorer, items):
    for item in items:
        scorer.add(item)
    messages = []
    while scorer.busy:
        messages += scorer.step()
    return {message["id"]: message for message in messages}


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma2", "mistral", "granite", "cohere", "gpt2", "qwen3_moe"])
def test_scores_equal_the_plain_computation(kind, monkeypatch):
    monkeypatch.setattr(scoring, "_HEAD_POSITIONS", 7)
    model = tiny_model(kind, **({"logits_scaling": 3.0} if kind == "granite" else {}))
    sent = []
    scorer = Scorer(inspect_model(model, torch.device("cpu")), 4, sent.append)
    items = items_of(9)
    got = scored(scorer, items)
    assert scorer._head_is_separable is True
    for item in items:
        assert got[item.number]["logprob"] == pytest.approx(plain(model, item), rel=1e-5, abs=1e-3)
        assert got[item.number]["num_tokens"] == len(item.response)
    assert sorted(number for message in sent for number in message["ids"]) == list(range(9))


def test_a_head_that_cannot_be_called_apart_is_noticed():
    """A model that does something to the logits outside of what a stubbed decoder shows."""
    model = tiny_model("qwen3")
    forward = model.forward

    def longer(input_ids, position_ids=None, logits_to_keep=0, **kwargs):
        output = forward(input_ids=input_ids, position_ids=position_ids, logits_to_keep=logits_to_keep, **kwargs)
        output.logits = output.logits * (1 + input_ids.float().mean())
        return output

    model.forward = longer
    scorer = Scorer(inspect_model(model, torch.device("cpu")), 4, lambda _: None)
    items = items_of(5)
    got = scored(scorer, items)
    assert scorer._head_is_separable is False
    for item in items:
        assert got[item.number]["logprob"] == pytest.approx(plain(model, item), rel=1e-4)


def test_the_head_never_sees_more_than_a_chunk_of_positions():
    model = tiny_model("qwen3")
    scorer = Scorer(inspect_model(model, torch.device("cpu")), 8, lambda _: None)
    seen = []
    model.lm_head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0] * inputs[0].shape[1]))
    scored(scorer, [ScoreItem(i, "", "m", [5] * 20, [6] * 200) for i in range(8)])
    assert max(seen) <= 256 and sum(seen) >= 1600


def test_lack_of_memory_halves_the_batch(monkeypatch):
    model = tiny_model("qwen3")
    scorer = Scorer(inspect_model(model, torch.device("cpu")), 8, lambda _: None)
    forward = type(scorer.loaded).forward

    def failing(self, ids_BT, *args, **kwargs):
        if ids_BT.shape[0] > 2 or ids_BT.shape[1] > 100:
            raise RuntimeError("CUDA error: out of memory")
        return forward(self, ids_BT, *args, **kwargs)

    monkeypatch.setattr(type(scorer.loaded), "forward", failing)
    items = items_of(7)
    got = scored(scorer, [ScoreItem(99, "", "m", [5] * 60, [6] * 60), *items])
    assert got[99]["type"] == "failure" and "memory" in got[99]["message"]
    for item in items:
        assert got[item.number]["logprob"] == pytest.approx(plain(model, item), rel=1e-5, abs=1e-3)


def test_a_score_that_is_not_a_number_fails_alone():
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.get_output_embeddings().weight.data = torch.randn(101, 32)
        model.get_input_embeddings().weight[77] = float("nan")
    scorer = Scorer(inspect_model(model, torch.device("cpu")), 8, lambda _: None)
    good = ScoreItem(1, "", "m", [5], [6, 7])
    got = scored(scorer, [ScoreItem(0, "", "m", [5, 77, 6], [6]), good])
    assert got[0]["type"] == "failure"
    assert got[1]["logprob"] == pytest.approx(plain(model, good), rel=1e-5)
