"""The laboratory's data stage with vLLM: target and guard in one worker, as the user's YAML asks for it."""

import json
from pathlib import Path

import pytest
from axolotl.utils.dict import DictDefault

from axolotl_safety.config.validate import prepare_config
from axolotl_safety.pipeline.stage import run_stage

ROOT = Path(__file__).parents[2]
LAB = ROOT / "examples" / "lab"
ROWS = 100


def stage(work, **engine):
    """DGR on DirectRefusal's format, and ThinkSafe on SafeChain's, harmful and benign."""
    safety = {
        "work_dir": str(work),
        "max_rows": ROWS,
        "engine": engine,
        "guard": {"model": str(LAB / "guard"), "family": "qwen3guard"},
        "sampling": {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_new_tokens": 160},
        "choice": "lowest_nll",
        "dgr": {"n": 2},
    }
    datasets = [
        {"path": str(LAB / "data" / "direct_refusal.jsonl"), "type": "axolotl_safety.dgr"},
        {"path": str(LAB / "data" / "safechain.jsonl"), "type": "axolotl_safety.thinksafe"},
    ]
    cfg = DictDefault({"base_model": str(LAB / "model"), "sequence_len": 512, "datasets": datasets, "safety": safety})
    prepare_config(cfg)
    return run_stage(DictDefault(cfg.to_dict()))


def manifests(outputs):
    return [json.loads((Path(out["train"]).parent / "manifest.json").read_text()) for out in outputs.values()]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_the_laboratory_accepts_as_much_from_vllm_as_from_transformers(vllm_python, tmp_path):
    vllm = stage(tmp_path / "vllm", backend="vllm", python=vllm_python)
    made = manifests(vllm)
    plain = manifests(stage(tmp_path / "transformers", backend="transformers"))
    for ours, theirs in zip(made, plain, strict=True):
        assert ours["engine"]["backend"] == "vllm" and ours["engine"]["starts"] == 1
        assert ours["engine"]["worker"]["vllm"].startswith("0.")
        assert ours["model"]["fingerprint"] == theirs["model"]["fingerprint"]
        accepted = [one["funnel"]["accepted"] / one["funnel"]["taken"] for one in (ours, theirs)]
        assert min(accepted) > 0.8 and abs(accepted[0] - accepted[1]) <= 0.05, accepted
        assert not any(reason.startswith("engine_") for reason in ours["reasons"])

    # Memory settings are not part of what was asked: everything is found again, and no engine starts.
    memory = {"max_num_seqs": 64, "gpu_memory_utilization": 0.5, "enable_prefix_caching": False, "enforce_eager": True}
    again = stage(tmp_path / "vllm", backend="vllm", python=vllm_python, **memory)
    assert [out["hash"] for out in again.values()] == [out["hash"] for out in vllm.values()]
    assert all(manifest["counts"]["engine_starts"] == 0 for manifest in manifests(again))
