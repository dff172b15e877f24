"""Adapters in the real worker, and the laboratory's own evaluation against ours on the same models."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support import engines as engine_helpers
from support import evaluation as helpers
from support import tiny
from transformers import AutoModelForCausalLM

from axolotl_safety.commands.evaluate.evaluation import evaluate
from axolotl_safety.engines.base import EngineError, ModelSpec
from axolotl_safety.engines.choose import start_engine
from axolotl_safety.engines.local.engine import WorkerEngine

LAB = Path(__file__).resolve().parents[2] / "examples" / "lab"
sys.path.append(str(LAB))

from labkit import evaluation as lab  # noqa: E402
from labkit.models import load_model  # noqa: E402

torch.set_num_threads(1)


def save_adapter(base: Path, folder: Path, scale: float) -> Path:
    """A LoRA adapter that was never trained but for a random push."""
    torch.manual_seed(5)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=scale)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "base"
    # Every matrix a multiple of 32 wide: bitsandbytes' kernel for CPUs with AVX-512 takes no others.
    sizes = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16}
    engine_helpers.tiny_model("qwen3", **sizes, seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base):
    return save_adapter(base, base.parent / "adapter", 0.3)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 23)[None]).logits


def test_a_merged_adapter_is_the_adapter(base, adapter):
    import loading

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    before = logits(plain)
    wanted = logits(PeftModel.from_pretrained(plain, adapter).eval())
    loaded = loading.load({"path": str(base), "adapter": str(adapter)})
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())
    assert torch.allclose(logits(loaded.model), wanted, atol=1e-4) and not torch.allclose(before, wanted, atol=0.1)


def test_on_a_quantised_base_the_adapter_stays_beside_it(base, adapter):
    import loading

    spec = {"path": str(base), "quantization": "bitsandbytes"}
    plain, loaded = loading.load(spec), loading.load(spec | {"adapter": str(adapter)})
    assert any("lora" in name for name, _ in loaded.model.named_parameters())
    assert loaded.growing_cache and loaded.accepts == plain.accepts
    assert not torch.allclose(logits(plain.model), logits(loaded.model), atol=0.1)


def test_an_adapter_of_another_base_is_an_error_that_says_so(base, tmp_path):
    other = tmp_path / "other"
    engine_helpers.tiny_model("qwen3", hidden_size=32, seed=1).save_pretrained(other)
    spec = ModelSpec(str(base), adapter=str(save_adapter(other, tmp_path / "wrong", 0.3)))
    engine = engine_helpers.Driven(
        WorkerEngine("transformers", tmp_path / "work", {"target": spec}, batch_size=4, threads=1)
    )
    with engine, pytest.raises(EngineError, match="trained on this base_model"):
        list(engine.run([engine_helpers.request("r")]))


def test_the_laboratory_measures_the_same(tmp_path, monkeypatch):
    """Greedy, base and adapter: the same texts, so the same rates. The engine decodes in other batches than the lab."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    counts = {"harmful_seen": 12, "benign": 12, "math": 20}
    sets = {name: rows[: counts[name]] for name, rows in lab.load_split("dev").items() if name in counts}
    files = {name: str(tiny.write_rows(tmp_path / f"{name}.jsonl", rows)) for name, rows in sets.items()}
    block = {
        "harm": [files["harmful_seen"]],
        "over_refusal": [files["benign"]],
        "reasoning": [files["math"]],
        "sampling": {"temperature": 0, "max_new_tokens": lab.MAX_NEW_TOKENS},
    }
    tuned = save_adapter(LAB / "model", tmp_path / "tuned", 0.2)
    guard = {"model": str(LAB / "guard"), "family": "qwen3guard"}
    safety = {"engine": {"backend": "transformers"}, "guard": guard}
    cfg = helpers.config(tmp_path, LAB / "model", block, safety=safety)
    done = evaluate(cfg, (str(tuned),), start_engine)

    rates = {(row["set"], row["metric"], row["model"]): row["value"] for row in done.results["figures"]}
    items = pq.read_table(done.folder / "items.parquet").to_pylist()
    for name, folder in (("base", None), ("tuned", tuned)):
        theirs = lab.evaluate(*load_model(LAB / "model", folder), sets)
        summary = lab.summarise(theirs)
        assert rates["harmful_seen", "refusal", name] == summary["refusal_seen"]
        assert rates["benign", "refusal", name] == summary["over_refusal"]
        assert rates["math", "correct", name] == summary["reasoning"]
        ours = {item["prompt"]: item for item in items if item["model"] == name}
        for item in theirs:
            thought, answer = ours[item["prompt"]]["thought"], ours[item["prompt"]]["answer"]
            assert item["response"].strip() in (f"<think>\n{thought}\n</think>\n\n{answer}", f"<think>\n{thought}")
    texts = {name: [item["thought"] for item in items if item["model"] == name] for name in ("base", "tuned")}
    assert rates["math", "correct", "base"] > 90 and texts["base"] != texts["tuned"]  # the adapter was in effect
    harm = [row for row in done.results["figures"] if row["metric"] == "harmful"]
    assert [row["heuristic"] for row in harm] == [False, False] and harm[0]["value"] > 90 and harm[0]["unjudged"] < 10
