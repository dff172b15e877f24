"""The script for a machine with a card, in tiny sizes on a CPU, where what such a machine lacks is missing."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.distributions import environment_of
from support.engines import ON_CPU, child_environ

from axolotl_safety.config import KLConfig
from axolotl_safety.engines.base import EngineFigures, GpuMemory
from axolotl_safety.engines.gpu.gpus import Gpu

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "on_gpu.py"
ABSENT = ("axolotl", "axolotl_safety", "vllm", "pydantic", "orjson", "datasets", "scipy", "tenacity", "math_verify")


@pytest.fixture(scope="module")
def on_gpu():
    """The script as a module."""
    here = str(SCRIPT.parent)
    sys.path.insert(0, here)
    spec = importlib.util.spec_from_file_location("on_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(here)


def run(*command: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in child_environ().items() if name != "PYTHONPATH"}
    return subprocess.run(command, env=env | ON_CPU, cwd="/", capture_output=True, text=True, timeout=500)


def run_tiny(python: str, *arguments: str) -> subprocess.CompletedProcess:
    return run(python, str(SCRIPT), "--device", "cpu", "--sizes", "tiny", *arguments)


def test_it_measures_everything_where_neither_axolotl_nor_vllm_nor_pydantic_is(tmp_path):
    python = environment_of(("torch", "transformers", "peft", "pyarrow", "nvidia-ml-py"), tmp_path / "env")
    look = f"from importlib.util import find_spec; print([n for n in {ABSENT!r} if find_spec(n)])"
    assert run(python, "-c", look).stdout.strip() == "[]"

    done = run_tiny(python, "--seconds", "480", "--work-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    rows = {part: [row for row in found["rows"] if row["part"] == part] for part in ("loss", "step", "engine")}
    assert {row["status"] for row in found["rows"]} == {"measured"}, done.stderr[-3000:]
    assert [len(own) for own in rows.values()] == [4, 2, 1]

    # bfloat16's rounding is 4e-3 of a number; a wrong formula is off by far more.
    assert all(row["value_error"] < 1e-5 and row["gradient_error"] < 5e-3 for row in rows["loss"])
    long = next(row for row in rows["loss"] if row["loss"] == "forward_kl" and row["tokens"] == 512)
    assert 0 < long["peak_bytes"] < long["full_peak_bytes"] and min(long["seconds"], long["full_seconds"]) > 0

    plain, kl = rows["step"]
    assert not plain["kl"] and len(plain["losses"]) == len(kl["losses"]) == 4
    assert kl["kl"][0] == 0 < kl["kl"][-1]  # the untrained adapter adds nothing, the trained one does
    # Half of the tokens are benign and their KL is next to nothing: half the cross-entropy is left.
    assert kl["losses"][0] == pytest.approx(plain["losses"][0] / 2, rel=0.05)
    assert all(row["peak_bytes"] > row["model_bytes"] > 0 and row["seconds"] > 0 for row in rows["step"])

    (engine,) = rows["engine"]
    assert engine["tokens"] == engine["generate_tokens"] > 8 * 4 and engine["halved"] == 0
    assert engine["ratio"] == pytest.approx(engine["tokens_per_second"] / engine["generate_tokens_per_second"])
    assert "given_back" not in engine  # no card

    assert found["card"] is None and found["versions"]["torch"] and found["date"].startswith("20")
    assert done.stdout.count("| tiny |") == 7 and "**The transformers engine" in done.stdout
    assert not list(tmp_path.glob("tmp*"))  # the weights are gone


def test_what_has_no_time_left_is_left_out_and_said():
    started = time.monotonic()
    done = run_tiny(sys.executable, "--seconds", "25", "--parts", "step,engine")
    assert done.returncode == 0 and time.monotonic() - started < 20
    table, last = done.stdout, json.loads(done.stdout.splitlines()[-1])
    assert [row["status"] for row in last["rows"]] == ["left out: 25 s left of 25"] * 2
    assert "| tiny | left out: 25 s left of 25 |" in table


def test_what_is_missing_is_said_in_one_sentence(tmp_path):
    python = environment_of(("psutil",), tmp_path / "env")
    done = run_tiny(python, "--parts", "loss,engine")
    assert done.returncode == 1 and not done.stdout
    (said,) = done.stderr.splitlines()
    assert "has no torch and no transformers and no numpy and no safetensors: pip install torch transformers" in said


def test_a_card_that_is_not_there_is_said_before_anything_is_measured():
    done = run(sys.executable, str(SCRIPT), "--sizes", "tiny", "--parts", "loss")
    assert done.returncode == 1 and "NVML shows no GPU here" in done.stderr and not done.stdout


SAYS_ONE_ROW = "import sys, time; print('{\"tokens\": 5}', flush=True); "


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", None),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 9 GiB')", "out of memory"),
        ("raise MemoryError", "out of memory"),
        ("raise ValueError('a strange thing')", "failed: ValueError: a strange thing"),
        ("import os; os.kill(os.getpid(), 9)", "failed: killed by SIGKILL; was main memory short?"),
        ("time.sleep(60)", "ended after 3 s: no time left"),
    ],
)
def test_a_part_that_fails_keeps_its_rows_and_is_a_row(on_gpu, tmp_path, ending, status):
    command = [sys.executable, "-c", SAYS_ONE_ROW + ending]
    rows = on_gpu.collect(command, child_environ(), 3 if "sleep" in ending else 60, tmp_path / "part")
    assert rows == [{"tokens": 5, "status": "measured"}, *([{"status": status}] if status else [])]


def test_the_parts_after_one_that_failed_go_on(on_gpu, tmp_path, monkeypatch):
    def collect(command, *_):
        return [{"status": "out of memory" if "loss" in command else "measured", "tokens": 1}]

    monkeypatch.setattr(on_gpu, "collect", collect)
    options = SimpleNamespace(seconds=400, sizes=["1.5b", "7b"], parts=["loss", "engine"], device="cuda")
    rows = on_gpu.run_all(options, {}, tmp_path)
    assert [(row["size"], row["part"], row["status"]) for row in rows] == [
        ("1.5b", "loss", "out of memory"),
        ("1.5b", "engine", "measured"),
        ("7b", "loss", "out of memory"),
        ("7b", "engine", "measured"),
    ]


def test_a_piece_of_work_that_does_not_fit_is_no_figure(on_gpu):
    import torch
    from gpulib import tables
    from gpulib.memory import Cost, cost_of

    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert cost_of(too_large, "cpu") == Cost(None, None)
    with pytest.raises(RuntimeError, match="a bug"):
        cost_of(lambda: (_ for _ in ()).throw(RuntimeError("a bug")).send(None), "cpu")
    row = {"part": "loss", "size": "7b", "status": "measured", "loss": "forward_kl", "tokens": 16384, "seconds": 0.5}
    row |= {"peak_bytes": 3 << 20, "full_peak_bytes": None, "full_seconds": None}
    about = {"card": "A card", "card_memory_bytes": 2**34, "driver": {"version": "1", "cuda": "13.0"}, "versions": {}}
    text = tables.markdown([row], about | {"date": "2026"})
    assert "| 7b | forward_kl | 16,384 | 3 MiB | 500.0 ms | out of memory | - | - | - |" in text
    assert text.startswith("A card, 16 GiB, driver 1 (CUDA 13.0);")


def test_the_peak_of_a_card_is_what_the_driver_showed_at_most(on_gpu):
    from gpulib.memory import GpuPeak

    shown = iter([100, 900])
    with GpuPeak(read=lambda: (Gpu("0", 1000, next(shown, 300), {}),)) as peak:
        time.sleep(0.3)
    assert peak.used_bytes == 900


def test_the_step_is_measured_with_the_sections_own_defaults(on_gpu):
    from gpulib import losses, step

    assert KLConfig().model_dump() == step.KL
    assert losses.CHUNK_BYTES == KLConfig().chunk_mb * 2**20


@pytest.mark.parametrize(("size", "parameters"), [("1.5b", 1_777_088_000), ("7b", 7_615_616_512)])
def test_the_shapes_are_the_published_models(on_gpu, size, parameters):
    import torch
    from gpulib.shapes import SIZES, random_model

    model = random_model(SIZES[size].shape, "meta", "bfloat16")
    assert sum(one.numel() for one in model.parameters()) == parameters
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}


class OnACard:
    """In the place of the engine, as if a card had been there."""

    def __init__(self, backend, spec, python, batch, work_dir, threads):
        card = GpuMemory("0", used_before_bytes=1, used_after_bytes=2, limit_bytes=3)
        self.figures = EngineFigures(gpu_memory=(card,), peak_rss_bytes=7)
        (work_dir / "logs").mkdir(parents=True)
        (work_dir / "logs" / "engine.log").write_text("out of memory with 64 rows; going on with 32\n")

    def run(self, work):
        return SimpleNamespace(tokens=sum(work["new"]), wall=2.0)

    def close(self):
        pass


def test_the_engines_row_says_what_the_card_showed_and_what_went_wrong(on_gpu, tmp_path, monkeypatch):
    from gpulib import engine, tables

    def plain(name, model, device, works):
        if device == "cuda":
            model.mkdir()
            (model / "config.json").write_text("{}")
        return {"generate_status": "out of memory"}

    monkeypatch.setattr(engine, "plain", plain)
    monkeypatch.setattr(engine, "Ours", OnACard)
    row = engine.measure("tiny", "cuda", tmp_path)
    assert row["tokens_per_second"] == row["tokens"] / 2 and row["halved"] == 1 and "ratio" not in row
    assert (row["before_bytes"], row["after_bytes"], row["given_back"]) == (1, 2, True)
    cells = {head: cell(row) for head, cell in tables.COLUMNS["engine"]}
    assert cells["`generate`"] == "out of memory" and cells["given back"] == "yes" and cells["ratio"] == "-"
    (tmp_path / "other").mkdir()
    failed = engine.measure("tiny", "cpu", tmp_path / "other")
    assert failed["status"] == "the model could not be made: out of memory"
