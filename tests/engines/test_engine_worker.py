"""The real worker with tiny models on disk, through the client."""

import math
import os
import signal

import pytest
import torch
from support.engines import Driven, is_running, ragged_prompts, request, score_request, tiny_model

from axolotl_safety.engines.base import Completion, EngineError, Failure, ModelSpec, Score
from axolotl_safety.engines.local.engine import WorkerEngine

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models on disk: ``target`` (joins and leaves) and ``guard0`` (sliding window)."""
    root = tmp_path_factory.mktemp("engine-models")
    tiny_model("qwen3", seed=1).save_pretrained(root / "target")
    tiny_model("mistral", seed=2).save_pretrained(root / "guard0")
    return root


@pytest.fixture(scope="module")
def engine(folder, tmp_path_factory):
    """One child for this module: its start is what costs."""
    environ = dict(os.environ)
    os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": "2", "RANK": "0"}
    models = {name: ModelSpec(str(folder / name)) for name in ("target", "guard0")}
    models["gone"] = ModelSpec(str(folder / "gone"))
    made = Driven(WorkerEngine("transformers", tmp_path_factory.mktemp("work"), models, batch_size=4, threads=1))
    yield made
    made.close()
    os.environ.clear()
    os.environ.update(environ)
    assert not any(map(is_running, made.figures.pids))


def asked_of_both():
    prompts = ragged_prompts(24, seed=11)
    names = ("target", "guard0")
    asked = [request(f"r{i}", prompt, 5 + i % 9, names[i % 2], 0.9, i, (7,)) for i, prompt in enumerate(prompts)]
    return asked + [score_request(f"s{i}", prompt, (5, 6, 7), names[i % 2]) for i, prompt in enumerate(prompts[:8])]


def test_two_models_in_one_child_and_again_after_a_kill(engine):
    asked = asked_of_both()
    first = {result.request_id: result for result in engine.run(asked)}
    assert len(first) == len(asked) and engine.figures.starts == 1
    for req in asked[:24]:
        result = first[req.request_id]
        assert isinstance(result, Completion) and result.logprob < 0
        assert result.finish_reason == ("stop" if result.token_ids[-1] == 7 else "length")
        assert len(result.token_ids) <= req.sampling.max_new_tokens and all(0 <= t < 101 for t in result.token_ids)
    assert all(isinstance(first[f"s{i}"], Score) and first[f"s{i}"].num_tokens == 3 for i in range(8))

    second = {}
    for result in engine.run(asked):
        assert result.request_id not in second
        second[result.request_id] = result
        if len(second) == 6:
            os.kill(engine.figures.pids[-1], signal.SIGKILL)
    assert engine.figures.starts == 2 and second.keys() == first.keys()
    for name, result in second.items():
        assert math.isclose(result.logprob, first[name].logprob, rel_tol=1e-4)
        if isinstance(result, Completion):
            assert result.token_ids == first[name].token_ids


def test_bad_items_fail_alone(engine):
    bad = [request("empty", ()), request("vocab", (5, 101)), request("negative", (-1,)), request("long", (5,) * 250, 7)]
    good = [request("fits", (5,) * 250, 6), request("plain", (5, 6), 3)]
    results = {result.request_id: result for result in engine.run(bad + good)}
    for req in bad:
        assert isinstance(results[req.request_id], Failure) and results[req.request_id].reason == "refused"
    assert "256" in results["long"].message and "101" in results["vocab"].message
    assert all(isinstance(results[req.request_id], Completion) for req in good)


def test_a_model_that_is_not_there_is_an_error_at_once(engine):
    starts = engine.figures.starts
    with pytest.raises(EngineError, match="loading the model 'gone'.*no such folder"):
        list(engine.run([request("x", model="gone")]))
    assert engine.figures.starts <= starts + 1


@pytest.mark.parametrize("spec", [{"dtype": "float8"}, {"quantization": "gptq"}])
def test_a_spec_that_is_not_known_names_the_choices(spec, folder):
    import loading  # the worker's modules are on the path through engine_helpers
    from protocol import LoadError

    with pytest.raises(LoadError) as caught:
        loading.load({"path": str(folder / "target"), **spec})
    assert next(iter(spec.values())) in str(caught.value) and caught.value.hint


def test_a_broken_checkpoint_is_named(folder, tmp_path):
    import loading
    from protocol import LoadError

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / "target" / name).read_bytes()[: -100 if name[0] == "m" else None])
    with pytest.raises(LoadError, match=str(tmp_path)):
        loading.load({"path": str(tmp_path)})


def test_a_model_with_a_cache_of_its_own_is_turned_down():
    import loading
    from protocol import LoadError
    from transformers import AutoModelForCausalLM, MambaConfig

    config = MambaConfig(vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=1)
    with pytest.raises(LoadError, match="MambaForCausalLM"):
        loading.inspect_model(AutoModelForCausalLM.from_config(config), torch.device("cpu"))
