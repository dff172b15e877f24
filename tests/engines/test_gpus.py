"""GPUs without a GPU: which are visible, how they are dealt to lanes, and whether their memory came back."""

import os
import subprocess
import sys
import types

import pytest

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.base import EngineFigures, ModelSpec
from axolotl_safety.engines.gpu import given_back as gpu_memory
from axolotl_safety.engines.gpu import gpus, placement
from axolotl_safety.engines.gpu.gpus import Gpu, read_gpus, visible_names
from axolotl_safety.engines.gpu.placement import place, plan_placement
from axolotl_safety.engines.gpu.share import Need
from axolotl_safety.util.errors import ConfigError, StageError

UUIDS = ("GPU-aa11", "GPU-ab22", "GPU-cc33")
MB, GB = 10**6, 10**9


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (None, ("0", "1", "2")),
        ("", ()),
        ("-1", ()),
        ("2,0", ("2", "0")),
        (" 1 , 2", ("1", "2")),
        ("0,7,1", ("0",)),  # CUDA stops at the first that is not there
        ("GPU-ab,GPU-cc33", ("GPU-ab", "GPU-cc33")),
        ("GPU-a", ()),  # ambiguous
        ("MIG-5f,MIG-6a", ("MIG-5f", "MIG-6a")),
    ],
)
def test_the_visible_gpus_are_those_that_cuda_would_show(asked, names):
    assert visible_names({} if asked is None else {"CUDA_VISIBLE_DEVICES": asked}, UUIDS) == names


def test_nothing_is_visible_on_a_machine_without_gpus():
    assert visible_names({"CUDA_VISIBLE_DEVICES": "0,MIG-5f"}, ()) == ()


class FakeNvml(types.ModuleType):
    """As much of pynvml as is used: three cards, one MIG instance."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self):
        super().__init__("pynvml")
        self.used = {"GPU-aa11": 100 * MB, "GPU-ab22": 200 * MB, "GPU-cc33": 300 * MB, "MIG-5f": 50 * MB}
        self.holders = {"GPU-cc33": [(7, 250 * MB)]}
        self.open = 0

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return 3

    def nvmlDeviceGetHandleByIndex(self, index):
        return UUIDS[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid.decode() not in self.used:
            raise self.NVMLError
        return uuid.decode()

    def nvmlDeviceGetUUID(self, handle):
        return handle

    def nvmlDeviceGetMemoryInfo(self, handle):
        return types.SimpleNamespace(total=80 * GB, used=self.used[handle])

    def nvmlDeviceGetName(self, handle):
        return b"NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.holders.get(handle, [])]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):
        raise self.NVMLError


def test_the_driver_is_asked_about_the_visible_cards_only(monkeypatch):
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert read_gpus({"CUDA_VISIBLE_DEVICES": "2,GPU-aa,MIG-5f"}) == (
        Gpu("2", 80 * GB, 300 * MB, {7: 250 * MB}, "NVIDIA H100 80GB HBM3"),
        Gpu("GPU-aa", 80 * GB, 100 * MB, {}, "NVIDIA H100 80GB HBM3"),
        Gpu("MIG-5f", 80 * GB, 50 * MB, {}, "NVIDIA H100 80GB HBM3"),
    )
    assert [gpu.used_bytes for gpu in read_gpus({})] == [100 * MB, 200 * MB, 300 * MB]
    assert read_gpus({"CUDA_VISIBLE_DEVICES": ""}) == () and read_gpus({"CUDA_VISIBLE_DEVICES": "MIG-0"}) == ()
    assert nvml.open == 0


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    nvml = FakeNvml()
    nvml.nvmlInit = lambda: (_ for _ in ()).throw(nvml.NVMLError("no driver"))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert read_gpus({}) == ()


def test_lanes_get_a_gpu_or_a_group_of_gpus_each():
    four = ("4", "5", "GPU-aa", "GPU-bb")
    assert place("auto", four, 1, 8).devices == (("4",), ("5",), ("GPU-aa",), ("GPU-bb",))
    assert place("auto", four, 2, 8).devices == (("4", "5"), ("GPU-aa", "GPU-bb"))
    assert place("auto", four, 4, 8) == placement.Placement((four,), 1, None, 4)


def test_idle_gpus_are_named(caplog):
    assert place(2, ("0", "1", "2"), 1, 8).idle == ("2",) and "GPU 2 idle" in caplog.text
    caplog.clear()
    assert place("auto", ("0", "1", "2"), 2, 8).devices == (("0", "1"),) and "GPU 2 idle" in caplog.text


@pytest.mark.parametrize(("replicas", "group"), [(3, 1), (2, 2), ("auto", 4)])
def test_more_lanes_than_gpus_are_refused(replicas, group):
    with pytest.raises(ConfigError, match="2 are visible"):
        place(replicas, ("0", "1"), group, 8)


def test_on_a_cpu_there_is_one_lane_and_several_divide_the_cores():
    assert place("auto", (), 1, 8) == placement.Placement((), 1, None, 1)
    assert place(3, (), 1, 8) == placement.Placement((), 3, 2, 1)
    assert place(4, (), 1, 2).threads == 1


def test_only_vllm_measures_the_models_and_only_where_nothing_is_said(monkeypatch):
    cards = (Gpu("0", 24 * GB, 0, {}), Gpu("1", 20 * GB, 0, {}))
    asked = []
    monkeypatch.setattr(
        placement,
        "read_needs",
        lambda models, on_cpu: asked.append(models) or {"target": Need(int(15.2 * GB), 57_344, 152_064, 28, 2048)},
    )
    models = {"target": ModelSpec("x")}
    assert plan_placement(EngineConfig(backend="vllm"), "vllm", models, lambda: cards).devices == (("0", "1"),)
    assert asked == [models]  # the smaller card decides
    own = EngineConfig(backend="vllm", tensor_parallel_size=1)
    assert plan_placement(own, "vllm", models, lambda: cards).replicas == 2
    assert plan_placement(EngineConfig(), "transformers", models, lambda: cards).replicas == 2
    assert plan_placement(EngineConfig(backend="vllm"), "vllm", models, lambda: cards[:1]).replicas == 1
    assert plan_placement(EngineConfig(replicas=2), "transformers", models, lambda: ()).devices == ()
    assert len(asked) == 1


def card(used, processes=None, name="0"):
    return Gpu(name, 24 * GB, used * MB, {pid: held * MB for pid, held in (processes or {}).items()})


def watch(before, readings, **kw):
    """The figures after a wait in which one reading follows the other; and how many seconds it took."""
    now, left = [0.0], list(readings)

    def sleep(seconds):
        now[0] += seconds

    def read():
        return [left.pop(0) if len(left) > 1 else left[0]]

    found = gpu_memory.wait_until_given_back([before], read, clock=lambda: now[0], sleep=sleep, **kw)
    return EngineFigures(gpu_memory=found), now[0]


def test_memory_that_falls_late_is_waited_for():
    figures, seconds = watch(card(1000), [card(22000), card(9000), card(1301), card(1300)])
    (found,) = figures.gpu_memory
    assert (found.used_before_bytes, found.used_after_bytes, found.limit_bytes) == (1000 * MB, 1300 * MB, 1300 * MB)
    assert 0 < seconds < 1 and found.given_back
    gpu_memory.require_given_back(figures)
    assert gpu_memory.describe(figures) == "GPU 0: 1,000 MB in use before, 1,300 MB after, limit 1,300 MB"


def test_memory_that_never_falls_stops_training_and_names_who_holds_it():
    helper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        after = card(22000, {helper.pid: 20500, 2**22 + 5: 400})
        figures, seconds = watch(card(1000, {2**22 + 5: 400}), [after])
        assert 30 <= seconds < 31
        with pytest.raises(StageError) as caught:
            gpu_memory.require_given_back(figures)
    finally:
        helper.kill()
        helper.wait()
    message = str(caught.value)
    assert "GPU 0: 22,000 MB in use after the engine ended, 1,000 MB before it started, limit 1,300 MB" in message
    assert f"{helper.pid} (python" in message and "20,500 MB)" in message
    assert f"{2**22 + 5} (not visible from here" in message and "400 MB, there before the engine)" in message
    assert "finished work is kept" in message and "kill PID" in message


def test_what_this_process_took_itself_is_not_the_engines():
    me = os.getpid()
    figures, _ = watch(card(1000, {me: 100}), [card(2700, {me: 1600})], seconds=0)
    assert figures.gpu_memory[0].limit_bytes == 2800 * MB and figures.gpu_memory[0].holders == ()
    gpu_memory.require_given_back(figures)


def test_another_rank_is_ours_and_a_stranger_is_not(monkeypatch):
    sibling = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        monkeypatch.setattr(os, "getppid", lambda: os.getpid())  # as if our launcher had started it
        assert gpu_memory._is_ours(sibling.pid, {"WORLD_SIZE": "2"})
        assert not gpu_memory._is_ours(sibling.pid, {"WORLD_SIZE": "1"}) and not gpu_memory._is_ours(1, {})
        assert not gpu_memory._is_ours(2**22 + 5, {"WORLD_SIZE": "2"})
    finally:
        sibling.kill()
        sibling.wait()


def test_without_a_gpu_nothing_is_watched():
    assert gpu_memory.wait_until_given_back((), gpus.read_gpus) == ()
    gpu_memory.require_given_back(EngineFigures())
    assert gpu_memory.describe(EngineFigures()) == "no GPU seen"
