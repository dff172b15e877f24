"""The data stage with the target behind a server: provenance, identity, guards that run here."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny
from support.engines import Driven, request, score_request
from support.fake_server import FakeServer, FakeVllm
from support.stage import config, folder_bytes, manifest_of, rows_of
from transformers import AutoTokenizer

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.base import EngineError, EngineFigures, GpuMemory, ModelSpec
from axolotl_safety.engines.choose import choose_backend, start_engine
from axolotl_safety.engines.local.engine import WorkerEngine
from axolotl_safety.engines.openai.engine import ServerEngine
from axolotl_safety.engines.openai.routed import RoutedEngine
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import ConfigError

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def server(models):
    """A server of the tiny Qwen3 under the name ``served``, which mostly refuses."""
    tokenizer = AutoTokenizer.from_pretrained(models("qwen3"))
    answer = tiny.refusing_answer(tokenizer, False, tokenizer.eos_token_id)
    model = FakeVllm(lambda prompt: answer(request(repr(prompt))))

    def tokenize(body):
        return 200, {"tokens": tokenizer.encode(body["prompt"], add_special_tokens=False), "max_model_len": 4096}

    made = FakeServer(
        lambda body, times: (200, {"choices": [model.choice(body)]}, {}),
        (200, {"data": [{"id": "served", "root": "/models/tiny", "max_model_len": 4096}]}),
        lambda body: body,
        {"/tokenize": tokenize, "/version": lambda _: (200, {"version": "0.32.0"})},
    )
    yield made
    made.stop()


def served(tmp_path: Path, model: Path, url: str, name: str | None = "served", **safety):
    engine = {"backend": "openai", "base_url": url} | ({"model": name} if name else {})
    return config(tmp_path, model, tiny.direct_refusal_rows(12), engine=engine, **safety)


def test_a_stage_runs_on_a_server_says_so_and_needs_it_only_once(tmp_path, models, server):
    model = models("qwen3")
    output = run_stage(served(tmp_path, model, server.url))[0]
    manifest, rows = manifest_of(output), rows_of(output)
    assert manifest["engine"]["backend"] == "openai"
    facts = {"model": "served", "root": "/models/tiny", "max_model_len": 4096, "version": "0.32.0"}
    assert manifest["engine"]["server"] == facts
    assert "unknown" in manifest["model"]["dtype"] and "unknown" in manifest["model"]["quantization"]
    assert {row["status"] for row in rows} >= {"accepted"} and output["rows"] >= 6
    before, asked = folder_bytes(Path(output["train"])), len(server.asked)
    assert asked > 12
    server.stop()
    again = run_stage(served(tmp_path, model, AWAY))[0]  # moved, and away: nothing is left to ask
    assert again == output and folder_bytes(Path(again["train"])) == before
    with pytest.raises(ConfigError, match="cannot be reached"):
        run_stage(served(tmp_path, model, AWAY, "another"))
    with pytest.raises(ConfigError, match="cannot be reached"):
        run_stage(served(tmp_path, model, AWAY, None))


def test_a_server_of_another_tokenizer_stops_the_stage_before_any_row(tmp_path, models, server):
    server.others["/tokenize"] = lambda body: (200, {"tokens": [1, 2, 3]})
    with pytest.raises(ConfigError, match="another tokenizer than base_model"):
        run_stage(served(tmp_path, models("qwen3"), server.url))
    assert not server.asked


def test_resampling_at_another_temperature_is_refused_before_the_server_is_asked(tmp_path, models):
    plain = {"top_p": 1.0, "top_k": 0}
    for temperature, message in ((0.7, "at temperature 1 only"), (1.0, "cannot be reached")):
        sampling = plain | {"temperature": temperature}
        cfg = served(tmp_path, models("qwen3"), AWAY, sampling=sampling, choice="resample", dgr={"n": 4})
        with pytest.raises(ConfigError, match=message):
            run_stage(cfg)


def test_the_target_is_served_and_guards_run_here(tmp_path, server):
    engine = EngineConfig(backend="openai", base_url=server.url, batch_size=5)
    assert choose_backend(engine) == "openai"
    models = {"target": ModelSpec("elsewhere"), "guard0": ModelSpec("g"), "guard1": ModelSpec("h")}
    routed = start_engine(engine, "openai", tmp_path, models, "served")
    assert isinstance(routed, RoutedEngine)
    driven = Driven(routed)
    (found,) = driven.run([request("r")])
    assert found.request_id == "r" and routed.figures.starts == 0, "no process for the target"
    assert routed.figures.server["model"] == "served"
    assert isinstance(routed._of("target"), ServerEngine) and isinstance(routed._of("guard0"), WorkerEngine)
    assert routed._of("guard1")._models == {"guard0": models["guard0"], "guard1": models["guard1"]}
    driven.close()
    alone = start_engine(engine, "openai", tmp_path, {"target": ModelSpec("elsewhere")}, "served")
    assert isinstance(alone, ServerEngine)


def test_requests_go_by_model_and_figures_add_up():
    target, guard = (tiny.ScriptedEngine(lambda one, ids=ids: ids) for ids in ((1,), (2,)))
    card = (GpuMemory("0", 5, 6, 7),)
    guard.figures = EngineFigures(2, [7], 100, card, 1.0, worker={"torch": "2"})
    target.figures = EngineFigures(seconds=2.0, server={"model": "m"})
    routed = RoutedEngine(target, guard)
    asked = [request("a"), request("b", model="guard1"), score_request("c", model="guard0"), request("d")]
    found = {result.request_id: result for result in Driven(routed).run(asked)}
    guard.figures.starts = 2
    assert found["a"].token_ids == found["d"].token_ids == (1,) and found["b"].token_ids == (2,)
    assert sorted(target.seen) == ["a", "d"] and sorted(guard.seen) == ["b", "c"]
    assert routed.figures == EngineFigures(2, [7], 100, card, 3.0, {"torch": "2"}, {"model": "m"})
    assert guard.figures.pids == [7], "adding up changes no part"


def test_all_engines_are_ended_though_one_fails():
    ended = []

    class One(tiny.ScriptedEngine):
        async def close(self, at_once=False):
            ended.append(self)
            raise EngineError(f"number {len(ended)}")

    with pytest.raises(EngineError, match="number 2"):
        Driven(RoutedEngine(One(lambda one: (1,)), One(lambda one: (1,)))).close()
    assert len(ended) == 2


@pytest.mark.parametrize("key", [{"dtype": "float32"}, {"quantization": "bitsandbytes"}, {"max_num_seqs": 4}])
def test_keys_that_a_server_decides_are_refused(key):
    with pytest.raises(ValueError, match=next(iter(key))):
        EngineConfig(backend="openai", base_url=AWAY, **key)
