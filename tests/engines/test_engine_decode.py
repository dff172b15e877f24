"""The decode loop gives what `generate` gives, whoever shares the batch, and survives lack of memory."""

import pytest
import torch
from support.engines import ragged_prompts, tiny_model

from decode import ContinuousDecoder, StaticDecoder  # isort: skip
from items import GenerateItem
from loading import inspect_model

torch.set_num_threads(1)
CPU = torch.device("cpu")
CONTINUOUS = ["qwen3", "qwen2", "llama", "gpt2"]
STATIC = ["mistral", "gemma2", "gemma3_text", "bloom", "lfm2", "gpt_oss"]


def item(number, prompt, new, temperature=0.0, stop=(), top_p=1.0, top_k=0, name=None):
    return GenerateItem(number, name or f"r{number}", "m", prompt, temperature, top_p, top_k, new, 5, frozenset(stop))


def drain(decoder, feed=()):
    """Runs to the end; ``feed`` holds items that arrive one per step, while others are under way."""
    feed, messages = list(feed), []
    while decoder.busy or feed:
        if feed:
            decoder.add(feed.pop(0))
        messages += decoder.step()
    by_number = {message["id"]: message for message in messages}
    assert len(by_number) == len(messages)
    return by_number


def decoder_for(model, batch_size=4, sent=None):
    loaded = inspect_model(model, CPU)
    kind = ContinuousDecoder if loaded.growing_cache else StaticDecoder
    return kind(loaded, batch_size, (sent if sent is not None else []).append)


def generated_alone(model, prompt, new, stop=None):
    with torch.no_grad():
        ids = torch.tensor([prompt])
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=new,
            eos_token_id=stop,
            pad_token_id=0,
        )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", CONTINUOUS + STATIC)
def test_greedy_equals_generate_of_each_prompt_alone(kind):
    model = tiny_model(kind)
    sent = []
    decoder = decoder_for(model, 4, sent)
    assert isinstance(decoder, ContinuousDecoder if kind in CONTINUOUS else StaticDecoder)
    prompts = ragged_prompts(13)
    news = [1 + (7 * i) % 19 for i in range(13)]
    asked = [item(i, prompt, new) for i, (prompt, new) in enumerate(zip(prompts, news, strict=True))]
    for one in asked[:6]:
        decoder.add(one)
    got = drain(decoder, asked[6:])
    for i, (prompt, new) in enumerate(zip(prompts, news, strict=True)):
        assert got[i]["tokens"] == generated_alone(model, prompt, new), f"request {i}"
        assert got[i]["finish"] == "length"
    assert sorted(number for message in sent for number in message["ids"]) == list(range(13))


@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_a_stop_token_ends_a_row_and_stays_in_it(kind):
    model = tiny_model(kind)
    prompts = ragged_prompts(6, seed=3)
    free = [generated_alone(model, prompt, 20) for prompt in prompts]
    stops = [(tokens[3 + i], 100) for i, tokens in enumerate(free)]
    decoder = decoder_for(model, 3)
    for i, prompt in enumerate(prompts):
        decoder.add(item(i, prompt, 20, stop=stops[i]))
    got = drain(decoder)
    for i, tokens in enumerate(free):
        end = min(tokens.index(stop) for stop in stops[i] if stop in tokens)
        assert got[i]["tokens"] == tokens[: end + 1] and got[i]["finish"] == "stop"


@pytest.mark.parametrize("kind", ["qwen3", "mistral"])
def test_the_logprob_is_the_plain_one_of_the_drawn_tokens(kind):
    model = tiny_model(kind)
    decoder = decoder_for(model, 3)
    prompts = ragged_prompts(5, seed=4)
    for i, prompt in enumerate(prompts):
        decoder.add(item(i, prompt, 12, temperature=1.7, top_p=0.9, top_k=20))
    for i, message in drain(decoder).items():
        ids = torch.tensor([prompts[i] + message["tokens"]])
        with torch.no_grad():
            logprobs = model(ids).logits[0].double().log_softmax(-1)
        start = len(prompts[i])
        wanted = sum(float(logprobs[start + j - 1, token]) for j, token in enumerate(message["tokens"]))
        assert message["logprob"] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("kind", ["qwen3", "mistral"])
def test_draws_do_not_depend_on_batch_mates(kind):
    model = tiny_model(kind)
    prompts = ragged_prompts(12, seed=6)
    asked = [
        item(i, prompt, 5 + 3 * (i % 5), (0.0, 0.7, 1.0, 1.3)[i % 4], top_p=(1.0, 0.8)[i % 2], top_k=i % 3 * 7)
        for i, prompt in enumerate(prompts)
    ]
    seen = []
    for batch_size, order in ((1, asked), (5, asked), (12, asked[::-1]), (3, asked[6:] + asked[:6])):
        decoder = decoder_for(model, batch_size)
        for one in order:
            decoder.add(one)
        seen.append({number: message["tokens"] for number, message in drain(decoder).items()})
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert len({tuple(tokens[:4]) for tokens in seen[0].values()}) > 6


@pytest.mark.parametrize("kind", ["qwen3", "mistral"])
@pytest.mark.parametrize("failing_calls", [(0,), (3,), (2, 5, 9)])
def test_lack_of_memory_halves_the_batch_and_changes_no_token(kind, failing_calls, monkeypatch):
    model = tiny_model(kind)
    prompts = ragged_prompts(10, seed=8)
    asked = [item(i, prompt, 9, temperature=1.0) for i, prompt in enumerate(prompts)]
    quiet = decoder_for(model, 8)
    for one in asked:
        quiet.add(one)
    wanted = {number: message["tokens"] for number, message in drain(quiet).items()}

    decoder = decoder_for(model, 8)
    forward, calls = type(decoder.loaded).forward, []

    def failing(self, *args, **kwargs):
        calls.append(args[0].shape[0])
        if len(calls) - 1 in failing_calls:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(decoder.loaded), "forward", failing)
    for one in asked:
        decoder.add(one)
    assert {number: message["tokens"] for number, message in drain(decoder).items()} == wanted
    assert calls[failing_calls[0] + 1] <= 4


def test_a_request_that_does_not_fit_alone_is_refused_and_the_rest_goes_on(monkeypatch):
    decoder = decoder_for(tiny_model("qwen3"), 4)
    forward = type(decoder.loaded).forward

    def failing(self, ids, *args, **kwargs):
        if ids.shape[1] >= 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, ids, *args, **kwargs)

    monkeypatch.setattr(type(decoder.loaded), "forward", failing)
    for i in range(6):
        decoder.add(item(i, [5] * (60 if i == 2 else 6), 4))
    got = drain(decoder)
    assert got[2]["type"] == "failure" and "memory" in got[2]["message"]
    assert all(got[i]["type"] == "completion" for i in (0, 1, 3, 4, 5))


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch):
    decoder = decoder_for(tiny_model("qwen3"), 4)
    monkeypatch.setattr(type(decoder.loaded), "forward", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("other")))
    decoder.add(item(0, [5], 4))
    with pytest.raises(RuntimeError, match="other"):
        decoder.step()


@pytest.mark.parametrize("kind", ["qwen3", "mistral"])
def test_a_row_whose_logits_are_not_numbers_fails_alone(kind):
    model = tiny_model(kind)
    with torch.no_grad():
        model.get_input_embeddings().weight[77] = float("nan")
        model.get_output_embeddings().weight.copy_(torch.randn_like(model.get_output_embeddings().weight))
    decoder = decoder_for(model, 4)
    for i in range(4):
        decoder.add(item(i, [5, 77] if i == 1 else [5, 6 + i], 6))
    got = drain(decoder)
    assert got[1]["type"] == "failure" and "not a number" in got[1]["message"]
    assert all(got[i]["tokens"] == generated_alone(model, [5, 6 + i], 6) for i in (0, 2, 3))


def test_a_row_that_gets_a_broken_ones_slot_is_clean():
    """The short row moves into the broken one's slot, and the long row makes it see all of that slot's columns."""
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.get_input_embeddings().weight[77] = float("nan")
        model.get_output_embeddings().weight.copy_(torch.randn_like(model.get_output_embeddings().weight))
    decoder = decoder_for(model, 3)
    prompts = [[5] * 9 + [77] * 9, [6] * 30, [8, 9]]
    for i, prompt in enumerate(prompts):
        decoder.add(item(i, prompt, 6))
    got = drain(decoder)
    assert got[0]["type"] == "failure"
    for i in (1, 2):
        assert got[i]["type"] == "completion" and got[i]["tokens"] == generated_alone(model, prompts[i], 6)


def test_cancel_forgets_everything_and_the_decoder_goes_on():
    for kind in ("qwen3", "mistral"):
        model = tiny_model(kind)
        decoder = decoder_for(model, 2)
        for i in range(5):
            decoder.add(item(i, [5, 6], 9))
        for _ in range(3):
            decoder.step()
        decoder.cancel()
        assert not decoder.busy
        decoder.add(item(9, [7, 8, 9], 9))
        assert drain(decoder)[9]["tokens"] == generated_alone(model, [7, 8, 9], 9)
