"""The vLLM worker through the client: what it draws and scores is what transformers computes."""

import random
from functools import cache

import pytest
import torch
from support.engines import ragged_prompts, request, score_request
from wide import LONG_ROW, WIDE

from axolotl_safety.engines.base import Completion, Failure, Score, ScoreRequest

torch.set_num_threads(1)


def by_id(results):
    return {result.request_id: result for result in results}


@cache
def reference(folder):
    """The model as the transformers worker loads it, and its scorer."""
    from loading import load
    from scoring import Scorer

    loaded = load({"path": folder})
    return loaded, Scorer(loaded, 4, lambda message: None)


def transformers_score(spec, req):
    from items import ScoreItem

    item = ScoreItem(0, req.request_id, req.model, list(req.prompt_token_ids), list(req.response_token_ids))
    return reference(spec.path)[1].score([item])[0]


@pytest.mark.parametrize("model", ["target", "guard0"])
def test_greedy_tokens_and_their_logprob_are_those_of_transformers(engine, specs, model):
    asked = [request(f"{model}{i}", prompt, 24, model, 0.0) for i, prompt in enumerate(ragged_prompts(12, seed=4))]
    results = by_id(engine.run(asked))
    loaded, _ = reference(specs[model].path)
    for req in asked:
        ids = torch.tensor([req.prompt_token_ids])
        want = loaded.model.generate(ids, do_sample=False, max_new_tokens=24, eos_token_id=None, pad_token_id=0)
        result = results[req.request_id]
        assert list(result.token_ids) == want[0, ids.shape[1] :].tolist() and result.finish_reason == "length"
        score = score_request("", req.prompt_token_ids, result.token_ids, model)
        assert result.logprob == pytest.approx(transformers_score(specs[model], score), abs=1e-3)


def test_a_draw_depends_on_seed_and_id_alone_and_its_logprob_on_neither_temperature_nor_truncation(engine, specs):
    # The wide model prefills these prompts in pieces, which vLLM's own generators do not survive on a CPU.
    draw = random.Random(5)
    prompts = [[draw.randrange(WIDE) for _ in range(300 + 40 * i)] for i in range(4)]
    asked = [request(f"w{i}", prompt, 6, "wide", 0.7, 9, top_k=50) for i, prompt in enumerate(prompts)]
    asked += [request(f"t{i}", prompt, 20, "target", 0.7, 9) for i, prompt in enumerate(ragged_prompts(30, seed=6))]
    first = by_id(engine.run(asked))
    again = by_id(engine.run(list(reversed(asked))[::3]))
    assert len(again) == 12
    assert all(first[name].token_ids == result.token_ids for name, result in again.items())
    other = by_id(
        engine.run([request(f"t{i}", asked[4 + i].prompt_token_ids, 20, "target", 0.7, 10) for i in range(8)])
    )
    assert all(first[name].token_ids != result.token_ids for name, result in other.items())
    assert len({result.token_ids for result in first.values()}) == len(asked)
    for req in (*asked[:2], *asked[4:12]):
        result = first[req.request_id]
        score = score_request("", req.prompt_token_ids, result.token_ids, req.model)
        assert result.logprob == pytest.approx(transformers_score(specs[req.model], score), abs=1e-3)


def test_our_stop_ids_end_a_completion_and_nothing_else_does(engine):
    prompts = ragged_prompts(40, seed=7)
    asked = [request(f"s{i}", prompt, 60, "target", 1.5, i, stop=(50, 51, 52)) for i, prompt in enumerate(prompts)]
    results = by_id(engine.run(asked)).values()
    for result in results:
        inner = result.token_ids[:-1]
        assert not {50, 51, 52} & set(inner)
        stopped = result.token_ids[-1] in (50, 51, 52)
        assert result.finish_reason == ("stop" if stopped else "length") and (stopped or len(result.token_ids) == 60)
    assert {result.finish_reason for result in results} == {"stop", "length"}
    assert any(2 in result.token_ids[:-1] for result in results)  # the checkpoint's own end, which was not asked for


def test_a_bad_item_fails_alone(engine):
    bad = [request("empty", prompt=()), request("vocab", prompt=(5, 1000)), request("long", prompt=(1,) * 200, new=57)]
    bad += [request("none", new=0), request("hot", top_p=0.0), score_request("mute", response=())]
    bad += [ScoreRequest("warm", "target", (1, 2), (3, 4), 0.7), score_request("full", (1,) * 100, (2,) * 156)]
    good = [request(f"g{i}", new=5) for i in range(20)]
    results = by_id(engine.run(bad + good + [request("fits", prompt=(1,) * 200, new=56)]))
    for req in bad:
        assert isinstance(results[req.request_id], Failure) and results[req.request_id].reason == "refused"
    assert "257" in results["long"].message and "1000" in results["vocab"].message
    assert "0.7" in results["warm"].message and "transformers" in results["warm"].message
    assert all(isinstance(results[req.request_id], Completion) for req in good)
    assert len(results["fits"].token_ids) == 56  # vLLM shortens without a word what does not fit


def test_a_run_that_is_left_early_is_forgotten(engine):
    starts = engine.figures.starts
    run = engine.run([request(f"c{i}", new=200, temperature=1.0) for i in range(60)])
    next(run)
    run.close()
    results = by_id(engine.run([request("after", new=3), score_request("scored")]))
    assert len(results["after"].token_ids) == 3 and isinstance(results["scored"], Score)
    assert engine.figures.starts == starts


def peak_rss(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def test_scores_are_those_of_transformers_and_a_long_row_costs_no_gigabytes(engine, specs):
    pairs = zip(ragged_prompts(12, seed=8), ragged_prompts(12, seed=9), strict=True)
    asked = [score_request(f"n{i}", *pair, model=("target", "guard0")[i % 2]) for i, pair in enumerate(pairs)]
    results = by_id(engine.run(asked))
    for req in asked:
        assert results[req.request_id].num_tokens == len(req.response_token_ids)
        assert results[req.request_id].logprob == pytest.approx(transformers_score(specs[req.model], req), abs=1e-3)

    draw = random.Random(1)
    row = [draw.randrange(WIDE) for _ in range(LONG_ROW)]
    list(engine.run([score_request("small", row[:20], row[20:40], "wide")]))
    before = peak_rss(engine.figures.pids[-1])
    alone = score_request("alone", row[:1000], row[1000:], "wide")
    (result,) = engine.run([alone])  # the only request: vLLM would take it in one piece
    grown = peak_rss(engine.figures.pids[-1]) - before
    assert result.logprob == pytest.approx(transformers_score(specs["wide"], alone), abs=1e-3)
    # Its logits alone are 2.4 GB, and vLLM holds them about three times.
    assert grown < 600e6, f"{grown / 1e6:.0f} MB"
