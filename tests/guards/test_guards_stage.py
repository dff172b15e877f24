"""Every family of guards through the whole data stage, with an engine that plays target and guard."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import tiny
from support.custom_formats import PUBLISHED
from support.guard_stage import NAMES, config, guard_block, guard_folder, sound_refusals
from support.guards import SAFE, UNSAFE
from support.judges import SAFE as SAFE_JSON
from support.judges import UNSAFE as UNSAFE_JSON
from support.judges import says
from transformers import AutoTokenizer

from axolotl_safety.engines.base import Score, ScoreRequest
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import ConfigError, StageError


class Playing(tiny.ScriptedEngine):
    """Plays the target, and a guard by the rows' number; words are scored in the guard's favour."""

    def __init__(self, tokenizer: Any, family: str, threshold_rows: tuple[str, ...] = ()):
        target = sound_refusals(tokenizer)
        self.guard_asked = 0

        def answer(request):
            if request.model == "target":
                return target(request)
            self.guard_asked += 1
            text = tokenizer.decode(request.prompt_token_ids)
            said = UNSAFE[family] if "number 3?" in text else SAFE[family]
            said = "gibberish" if "number 5?" in text else said
            return (*tokenizer.encode(said, add_special_tokens=False), tokenizer.eos_token_id)

        super().__init__(answer)
        self.tokenizer, self.threshold_rows = tokenizer, threshold_rows

    async def answer(self, request):
        if not isinstance(request, ScoreRequest) or request.model == "target":
            return await super().answer(request)
        text = self.tokenizer.decode(request.prompt_token_ids)
        word = self.tokenizer.decode(request.response_token_ids).strip().lower()
        doubtful = any(row in text for row in self.threshold_rows)
        share = 0.4 if doubtful else 0.01
        safe = word in ("safe", "no", "0") or word.endswith(("less", 'ok"}'))
        mass = 1 - share if safe else share
        return Score(request.request_id, math.log(mass), len(request.response_token_ids))


def rows_of(output: dict[str, Any]) -> list[dict[str, Any]]:
    return pq.read_table(Path(output["train"]).parent / "rows.parquet").to_pylist()


def number(row: dict[str, Any]) -> int:
    return int(row["prompt"].rstrip("?").split()[-1])


@pytest.mark.parametrize("family", NAMES)
def test_a_family_judges_a_whole_stage_and_resumes_without_an_engine(tmp_path, models, family):
    model = models("qwen3")
    engines: list[Playing] = []

    def start(*_: Any) -> Playing:
        engines.append(Playing(AutoTokenizer.from_pretrained(model), family, ("number 7?",)))
        return engines[-1]

    cfg = config(tmp_path, model, guard_block(tmp_path, model, family, threshold=0.2))
    output = run_stage(cfg, make_engine=start)[0]
    rows = {number(row): row for row in rows_of(output)}
    assert (rows[3]["status"], rows[3]["reason"]) == ("rejected", "guard_unsafe")
    assert (rows[5]["status"], rows[5]["reason"]) == ("rejected", "guard_unparsable")
    assert (rows[7]["status"], rows[7]["reason"]) == ("rejected", "guard_threshold")
    accepted = [row for row in rows.values() if row["status"] == "accepted"]
    assert len(accepted) >= 6 and {row["verdict"] for row in accepted} == {
        f"safe p={2 / 101 if family == 'qwen3guard' else 0.01:.2g}"
    }
    assert rows[7]["verdict"].startswith("threshold p=") and engines[0].guard_asked > 0
    assert run_stage(cfg, make_engine=start)[0] == output and len(engines) == 1
    assert run_stage(cfg, allow_engine=False)[0] == output


def test_the_order_of_an_ensembles_members_does_not_change_who_is_accepted(tmp_path, models):
    model = models("qwen3")
    folders = [guard_folder(tmp_path, model, family) for family in ("qwen3guard", "wildguard")]
    kept = []
    for place, order in enumerate((folders, folders[::-1])):

        def start(*_: Any) -> tiny.ScriptedEngine:
            tokenizer = AutoTokenizer.from_pretrained(model)
            target = sound_refusals(tokenizer)

            def answer(request):
                if request.model == "target":
                    return target(request)
                text = tokenizer.decode(request.prompt_token_ids)
                family = "wildguard" if "Human user:" in text else "qwen3guard"
                bad = "number 3?" if family == "wildguard" else "number 4?"
                said = UNSAFE[family] if bad in text else SAFE[family]
                return (*tokenizer.encode(said, add_special_tokens=False), tokenizer.eos_token_id)

            return tiny.ScriptedEngine(answer)

        cfg = config(tmp_path / str(place), model, [{"model": folder} for folder in order])
        rows = rows_of(run_stage(cfg, make_engine=start)[0])
        kept.append({number(row) for row in rows if row["status"] == "accepted"})
    assert kept[0] == kept[1] and not {3, 4} & kept[0] and len(kept[0]) >= 6


def remote(tmp_path, models, url, **more):
    model = models("qwen3")
    engines: list[tiny.ScriptedEngine] = []

    def start(*_: Any) -> tiny.ScriptedEngine:
        tokenizer = AutoTokenizer.from_pretrained(model)
        engines.append(tiny.ScriptedEngine(sound_refusals(tokenizer)))
        return engines[-1]

    guard = [{"model": "judge", "family": "openai", "base_url": url, "concurrency": 2} | more, {"model": "builtin"}]
    return config(tmp_path, model, guard), start, engines


def test_a_remote_judge_is_asked_once_and_not_needed_again(tmp_path, models, serve):
    server = serve(lambda user, times: says(UNSAFE_JSON if "number 3?" in user else SAFE_JSON))
    cfg, start, engines = remote(tmp_path, models, server.url)
    output = run_stage(cfg, make_engine=start)[0]
    rows = {number(row): row for row in rows_of(output)}
    assert rows[3]["reason"] == "guard_unsafe" and rows[3]["verdict"] == "unsafe, safe"
    assert {row["verdict"] for row in rows.values() if row["status"] == "accepted"} == {"safe, safe"}
    asked = len(server.asked)
    assert asked == len(set(server.asked)) >= 8 and server.most_busy <= 2
    server.http.shutdown()
    server.http.server_close()
    assert run_stage(cfg, make_engine=start)[0] == output and len(engines) == 1
    assert run_stage(cfg, allow_engine=False)[0] == output and len(server.asked) == asked


def test_a_remote_judge_that_cannot_be_asked_ends_the_run_before_the_engine_starts(
    tmp_path, models, serve, monkeypatch
):
    server = serve(lambda user, times: says(SAFE_JSON), (401, {}))
    cfg, start, engines = remote(tmp_path, models, server.url)
    with pytest.raises(ConfigError, match="answers 401"):
        run_stage(cfg, make_engine=start)
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    cfg, start, engines = remote(tmp_path / "key", models, server.url, api_key_env="JUDGE_KEY")
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        run_stage(cfg, make_engine=start)
    assert engines == []


def test_without_an_engine_a_remote_judge_is_not_asked_either(tmp_path, models, serve):
    server = serve(lambda user, times: says(SAFE_JSON))
    cfg, start, _ = remote(tmp_path, models, server.url)
    run_stage(cfg, make_engine=start)
    other, _, _ = remote(tmp_path, models, server.url, segment="both")
    asked = len(server.paths)
    with pytest.raises(StageError, match="not finished"):
        run_stage(other, allow_engine=False)
    assert len(server.paths) == asked


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_whole_stage_with_a_guard_in_the_format_of_a_published_one(tmp_path, models, name):
    prompt, verdict, more, safe, unsafe = PUBLISHED[name]
    model = models("qwen3")
    block = guard_block(tmp_path, model, "custom") | {"prompt": prompt, "verdict": verdict} | more
    tokenizer = AutoTokenizer.from_pretrained(model)
    target = sound_refusals(tokenizer)

    def saying(reply: str):
        def answer(request):
            if request.model == "target":
                return target(request)
            return (*tokenizer.encode(reply, add_special_tokens=False), tokenizer.eos_token_id)

        return lambda *_: tiny.ScriptedEngine(answer)

    rows = rows_of(run_stage(config(tmp_path / "a", model, block, 2), make_engine=saying(safe[-1]))[0])
    assert [(row["status"], row["verdict"]) for row in rows] == [("accepted", "safe")] * 2
    with pytest.raises(StageError, match="guard_unsafe': 2"):
        run_stage(config(tmp_path / "b", model, block, 2), make_engine=saying(unsafe[0]))
    with pytest.raises(StageError, match="guard_un(safe|parsable)': 2"):
        run_stage(config(tmp_path / "c", model, block, 2), make_engine=saying(unsafe[-1]))
