"""The plan of one run: what is left to do, what it takes on this card, and why it cannot run, if it cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from axolotl_safety.engines.choose import backend_named
from axolotl_safety.engines.gpu.share import group_sizes
from axolotl_safety.engines.gpu.sizes import ModelSize, model_size
from axolotl_safety.engines.gpu.vllm_settings import tensor_parallel_size, weight_dtype
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.model_files import ModelFiles
from axolotl_safety.guards.judge import ModelGuard
from axolotl_safety.pipeline.inputs import StageInputs
from axolotl_safety.util.errors import ConfigError

from . import machine
from .figures import Findings, Hardware, Judging, Plan
from .findings import look
from .memory import EngineMemory, LoadedModel, transformers_memory, vllm_memory
from .requests import walk
from .speed import RANGE, combined, tokens_per_second, total_seconds
from .training import from_axolotl, training_memory
from .workload import Workload, workload

_LIVE = 0.7  # of its final length a sequence under way has on average; long ones are under way longer


def make_plan(
    cfg: Any, inputs: StageInputs, journals: dict[str, Journal], place: Hardware, sample: int | None = None
) -> Plan:
    """Plan a run, by ``sample`` rows of each entry if that is set. Nothing is loaded, asked or written."""
    inputs = inputs.selected()
    load = workload(inputs, walk(inputs, journals, sample))
    sizes = {name: size for name, files in _files(inputs).items() if (size := _size(files)) is not None}
    engine, copies = None, 1
    seconds = rate = None
    residents = _residents(inputs, sizes, load, bool(place.cards))
    record = None if inputs.backend == "none" else backend_named(inputs.backend)
    if place.card is not None and len(residents) == len(inputs.models) and record is not None and record.local:
        engine, copies = _engine(inputs, residents, place)
        seats = {seat.name: seat for seat in engine.seats}
        group = combined(place.card, engine.parallel)
        eager = not record.paged
        models = {resident.name: resident for resident in residents}
        seconds = total_seconds(load.phases, models, seats, group, copies, eager)
        if seconds is not None:
            rate = {
                name: copies * tokens_per_second(residents[0], seats["target"], group, efficiency, eager)
                for name, efficiency in RANGE.items()
            }
    if not load.requests:
        seconds = dict.fromkeys(RANGE, 0.0)
    settings = from_axolotl(cfg)
    training = training_memory(sizes["target"], settings) if "target" in sizes else None
    completions = sum(phase.requests for phase in load.phases)
    written = sum(phase.new_tokens for phase in load.phases)
    plan = Plan(
        inputs.files.spec.path,
        inputs.backend,
        place,
        copies,
        sizes,
        {resident.name: resident for resident in residents},
        load,
        engine,
        seconds,
        rate,
        settings,
        training,
        machine.disk_bytes(completions, written),
        Findings((), (), ()),
        _judging(cfg, inputs),
    )
    return replace(plan, findings=look(cfg, inputs, plan))


def _judging(cfg: Any, inputs: StageInputs) -> Judging | None:
    stop = inputs.safety.stop
    if stop is None:
        return None
    counts = Counter(one.label for one in inputs.development)
    times = -(-int(cfg.max_steps) // stop.every) if cfg.max_steps else None
    return Judging(dict(counts), stop.every, times, counts.total() * stop.max_new_tokens)


def _files(inputs: StageInputs) -> dict[str, ModelFiles]:
    guards = {guard.key: guard.files for guard in inputs.guards if isinstance(guard, ModelGuard)}
    return {"target": inputs.files} | guards


def _size(files: ModelFiles) -> ModelSize | None:
    try:
        return model_size(files.config, files.stored)
    except Exception:  # an architecture that transformers cannot build: then its size is unknown, and said to be
        return None


def _residents(inputs: StageInputs, sizes: Mapping[str, ModelSize], load: Workload, gpu: bool) -> list[LoadedModel]:
    """The models that share a card, the target first."""
    usual_new = sum(phase.new_tokens for phase in load.phases if phase.model == "target")
    completions = sum(phase.requests for phase in load.phases if phase.model == "target" and phase.new_tokens)
    live = load.usual_prompt + _LIVE * usual_new / completions if completions else load.longest["target"] / 2
    made = []
    for name, files in _files(inputs).items():
        if name not in sizes:
            continue
        longest = load.longest.get(name, inputs.sequence_len)
        if inputs.backend == "vllm":  # which is started for the longest that could be asked
            longest = inputs.models[name].max_model_len or longest
        usual = live if name == "target" else _guard_prompt(load, name) or longest / 2
        dtype = weight_dtype(files.spec, files.config, on_cpu=not gpu)
        made.append(LoadedModel(name, sizes[name], dtype, quantization_of(files), longest, max(1, round(usual))))
    return made


def _guard_prompt(load: Workload, name: str) -> float:
    phases = [phase for phase in load.phases if phase.model == name]
    requests = sum(phase.requests for phase in phases)
    return sum(phase.prompt_tokens for phase in phases) / requests if requests else 0.0


def quantization_of(files: ModelFiles) -> str | None:
    """As the engine is told, or as the checkpoint is already; how large that is, `ModelSize` knows."""
    stored = files.stored.method if files.stored is not None else None
    return files.spec.quantization or (stored if stored in ("bitsandbytes", "fp8") else None)


def _engine(inputs: StageInputs, residents: Sequence[LoadedModel], place: Hardware) -> tuple[EngineMemory, int]:
    """Memory of one card, and how many copies of the engine run."""
    engine, card, count = inputs.safety.engine, place.card, len(place.cards)
    assert card is not None
    if not backend_named(inputs.backend).paged:
        return transformers_memory(residents, card.memory_bytes, engine.batch_size), _copies(engine.replicas, count)
    needs = {resident.name: resident.need for resident in residents}
    try:
        group = tensor_parallel_size(engine, needs, card.memory_bytes, count)
    except ConfigError:  # said by `findings`, with this card's figures
        group = group_sizes(needs, count)[-1]
    memory = vllm_memory(
        residents,
        card.memory_bytes,
        engine.gpu_memory_utilization,
        engine.max_num_seqs,
        engine.enforce_eager,
        group,
    )
    return memory, _copies(engine.replicas, count // memory.parallel)


def _copies(replicas: str | int, groups: int) -> int:
    return max(1, groups if replicas == "auto" else min(int(replicas), groups))
