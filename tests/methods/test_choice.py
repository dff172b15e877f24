"""Which accepted candidate is trained on: importance weights, tempering, fallback, and the conditions."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from support import tiny
from support.stage import config, manifest_of, rows_of, safechain_rows, scripted, scripted_by_prompt, thinksafe_answer

from axolotl_safety.engines.base import ScoreRequest
from axolotl_safety.methods.candidates import Candidate
from axolotl_safety.methods.choice import choose, effective_sample_size, temper
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import ConfigError

OPEN_SAMPLING = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_new_tokens": 128}


def candidates(*log_weights: float | None) -> list[Candidate]:
    return [Candidate(f"r{n}", "", nll=1.0, log_weight=weight) for n, weight in enumerate(log_weights)]


def pick(log_weights: list[float | None], seed: int, choice: str = "resample") -> Candidate:
    task: Any = SimpleNamespace(example=SimpleNamespace(row_id="row"), prompt_ids=(1, 2))
    shop: Any = SimpleNamespace(choice=choice, seed=seed)
    return choose(shop, task, candidates(*log_weights))


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_effective_sample_size_of_equal_and_of_degenerate_weights(count):
    assert effective_sample_size([3.0] * count) == pytest.approx(count)
    assert effective_sample_size([0.0] + [-1e4] * (count - 1)) == pytest.approx(1.0)


def test_effective_sample_size_is_kishs():
    weights = [0.5, 0.3, 0.2]
    assert effective_sample_size([math.log(w) + 7 for w in weights]) == pytest.approx(1 / (0.25 + 0.09 + 0.04))


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0, 200.0])
def test_tempering_keeps_half_the_candidates_and_no_more_than_needed(spread):
    logs = [0.0, -spread, -2 * spread, -3 * spread, -4 * spread, -5 * spread]
    exponent = temper(logs)
    assert effective_sample_size(logs, exponent) >= 3 - 1e-6
    assert exponent == 1.0 or effective_sample_size(logs, exponent * 1.01) < 3


def test_draws_follow_the_weights():
    drawn = Counter(pick([math.log(0.5), math.log(0.3), math.log(0.2)], seed).request_id for seed in range(4000))
    shares = [drawn[f"r{n}"] / 4000 for n in range(3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    assert pick([0.0, -1.0, -2.0], 5) == pick([0.0, -1.0, -2.0], 5)


def test_a_far_proposal_falls_back_to_the_first_and_says_so():
    first = pick([-900.0, 0.0, -400.0, -2000.0], 0)
    assert (first.request_id, first.tempering) == ("r0", 0.0) and first.ess == pytest.approx(1.0)
    near = pick([0.0, -0.1, 0.1, 0.05], 0)
    assert near.tempering == 1.0 and near.ess > 3.9


def test_what_could_not_be_scored_is_not_drawn():
    assert {pick([None, 0.0, None, 0.1], seed).request_id for seed in range(50)} == {"r1", "r3"}
    alone = pick([None, None], 0)
    assert (alone.request_id, alone.ess, alone.tempering) == ("r0", None, None)
    assert pick([0.5], 3).tempering is None  # nothing to choose from
    assert pick([math.nan, 0.0], 0).request_id == "r0"


@pytest.mark.parametrize(
    ("sampling", "value"),
    [({"top_p": 0.95}, "top_p 0.95"), ({"top_k": 20}, "top_k 20"), ({"temperature": 0}, "temperature 0")],
)
def test_resample_refuses_truncated_or_greedy_sampling(tmp_path, models, sampling, value):
    options = {"choice": "resample", "sampling": OPEN_SAMPLING | sampling}
    cfg = config(tmp_path, models("qwen3"), safechain_rows(4), method="thinksafe", **options)
    with pytest.raises(ConfigError, match=value):
        run_stage(cfg, make_engine=lambda *_: pytest.fail("an engine was started"))


class WeighingEngine(tiny.ScriptedEngine):
    """Scores depend on the prompt too, as a model's do; remembers every score asked for."""

    def __init__(self, answer: Any):
        super().__init__(answer)
        self.scores: list[ScoreRequest] = []

    async def answer(self, request: Any) -> Any:
        self.scores += [request] if isinstance(request, ScoreRequest) else []
        return await super().answer(request)


def test_resample_scores_both_sides_at_the_sampling_temperature_and_reports(tmp_path, models):
    model = models("qwen3")
    inner = scripted_by_prompt(model, thinksafe_answer)()
    engine = WeighingEngine(inner.say)
    cfg = config(
        tmp_path,
        model,
        safechain_rows(40),
        method="thinksafe",
        thinksafe={"n": 6},
        choice="resample",
        sampling=OPEN_SAMPLING,
    )
    output = run_stage(cfg, make_engine=lambda *_: engine)[0]
    warm = [request for request in engine.scores if request.temperature == 0.7]
    assert {request.temperature for request in engine.scores} == {0.7, 1.0}
    accepted = [row for row in rows_of(output) if row["label"] == "harmful" and row["status"] == "accepted"]
    for row in accepted:
        prompts = {r.prompt_token_ids for r in warm if r.response_token_ids == tuple(row["response_token_ids"])}
        assert tuple(row["prompt_token_ids"]) in prompts and len(prompts) >= 2  # the raw one and the steered one
    drawn = [row for row in accepted if row["tempering"] is not None]
    assert len(drawn) >= 15 and all(1 <= row["ess"] <= 6 for row in drawn)
    found = manifest_of(output)["resampling"]
    benign = [row for row in rows_of(output) if row["label"] == "benign"]
    assert all(row["ess"] is None and row["attempts"] == 6 for row in benign)  # asked as they are: p is q
    assert found["rows"] == len(drawn)
    assert 1 <= found["mean_effective_sample_size"] <= 6


def test_more_seeds_draw_other_candidates_and_one_seed_the_same(tmp_path, models):
    model = models("qwen3")

    def run(folder: str, seed: int) -> list[str]:
        options = {"thinksafe": {"n": 4}, "choice": "resample", "sampling": OPEN_SAMPLING, "seed": seed}
        (tmp_path / folder).mkdir()
        cfg = config(tmp_path / folder, model, safechain_rows(40), method="thinksafe", **options)
        output = run_stage(cfg, make_engine=scripted_by_prompt(model, thinksafe_answer))[0]
        return [row["response_token_ids"] for row in rows_of(output)]

    assert run("a", 1) == run("b", 1) != run("c", 2)


def test_the_dgr_engine_is_asked_no_extra_score_unless_it_resamples(tmp_path, models):
    model = models("qwen3")
    start, engines = scripted(model, "qwen3")
    output = run_stage(config(tmp_path, model, tiny.direct_refusal_rows(10)), make_engine=start)[0]
    accepted = [row for row in rows_of(output) if row["status"] == "accepted"]
    asked = sum(row["attempts"] for row in rows_of(output))
    assert len(engines[0].seen) == asked + 10 + len(accepted)  # completions, references, accepted candidates
    assert all(row["ess"] is None and row["tempering"] is None for row in accepted)


@pytest.mark.parametrize(("n", "warned"), [(1, True), (4, False)])
def test_a_choice_without_candidates_is_mentioned(tmp_path, models, caplog, n, warned):
    model = models("qwen3")
    cfg = config(tmp_path, model, tiny.direct_refusal_rows(6), choice="lowest_nll", dgr={"n": n})
    run_stage(cfg, make_engine=scripted(model, "qwen3")[0])
    assert ("Set dgr.n to 4" in caplog.text) == warned
