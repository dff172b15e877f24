"""Problems of a run, and warnings: each with its figures and the way out."""

from __future__ import annotations

from typing import Any

import psutil

from axolotl_safety.engines.choose import backend_named
from axolotl_safety.pipeline.inputs import StageInputs

from . import machine
from .figures import Findings, Plan
from .training import OPTIMIZERS

_LONG_HOURS = 12
_CPU_PARAMETERS = 1e9
# The training estimate may be wrong by about this share: nothing is refused within it.
_DOUBT = 0.15
_FIRST_BFLOAT16 = 8.0


def gigabytes(count: float) -> str:
    """``5.6 GB``; ``12 MB`` where that would be none."""
    return f"{count / 1e9:.1f} GB" if count == 0 or count >= 1e8 else f"{count / 1e6:.0f} MB"


def look(cfg: Any, inputs: StageInputs, plan: Plan) -> Findings:
    """Judge a plan."""
    problems: list[str] = []
    warnings: list[str] = []
    generates = bool(plan.load.requests) and plan.backend != "none" and backend_named(plan.backend).local
    if generates and plan.place.card is not None:
        _engine(inputs, plan, problems, warnings)
    elif generates:
        _cpu(plan, problems, warnings)
    if plan.place.card is not None:
        _training(cfg, plan, problems, warnings)
    _time(inputs, plan, problems, warnings)
    free = machine.free_disk_bytes(inputs.work_dir)
    if plan.disk_bytes > free and not plan.place.elsewhere:
        problems.append(
            f"work_dir {str(inputs.work_dir)!r} has {gigabytes(free)} left, and journal and datasets will take about "
            f"{gigabytes(plan.disk_bytes)}. Set safety.work_dir to a larger disk."
        )
    return Findings(tuple(problems), tuple(warnings), tuple(_assumptions(plan)))


def _engine(inputs: StageInputs, plan: Plan, problems: list[str], warnings: list[str]) -> None:
    card, memory, engine = plan.place.card, plan.engine, inputs.safety.engine
    if memory is None:
        unknown = sorted(set(inputs.models) - set(plan.sizes))
        warnings.append(f"the size of {', '.join(unknown)} cannot be told, so whether it fits is not known.")
        return
    bfloat16 = engine.dtype in ("auto", "bfloat16")
    if bfloat16 and card.capability and card.capability < _FIRST_BFLOAT16:
        said = f"{card.name} (compute capability {card.capability}) has no bfloat16. Set safety.engine.dtype: float16."
        (problems if plan.backend == "vllm" and engine.dtype == "bfloat16" else warnings).append(said)
    if memory.parallel > len(plan.place.cards):
        problems.append(
            f"engine.tensor_parallel_size is {memory.parallel}, and the plan is for {len(plan.place.cards)} card(s). "
            "Lower it, or plan for more with --gpus."
        )
    full = [seat for seat in memory.seats if seat.slots < 1]
    if not full:
        if memory.in_turn:
            warnings.append("the models do not fit this card together and are loaded in turn.")
        return
    seat = full[0]
    seats = [seat] if memory.in_turn else memory.seats
    weights = sum(one.weight_bytes for one in seats)
    overhead = sum(one.overhead_bytes for one in seats)
    problems.append(
        f"generation does not fit {card.name}: of {gigabytes(memory.capacity_bytes)} that the engine may use, weights "
        f"take {gigabytes(weights)} and overhead {gigabytes(overhead)}; {gigabytes(seat.cache_bytes)} of cache hold "
        f"{seat.tokens} tokens, and the longest sequence of {seat.name} has {seat.longest}. {_ways(inputs, plan)}"
    )


def _ways(inputs: StageInputs, plan: Plan) -> str:
    """What would make the engine smaller, without what is set already."""
    engine = inputs.safety.engine
    ways = []
    if inputs.files.stored is not None:
        pass  # it is as small as it gets
    elif engine.quantization is None:
        ways.append(f"engine.quantization: {'fp8 or ' if plan.backend == 'vllm' else ''}bitsandbytes")
    elif engine.quantization == "fp8":
        ways.append("engine.quantization: bitsandbytes")
    limit = max((drawn.max_new_tokens for drawn in inputs.sampling.values()), default=0)
    ways.append(f"sampling.max_new_tokens below {limit}")
    if plan.backend == "vllm":
        seqs = engine.max_num_seqs or 256
        ways.append(f"engine.max_num_seqs below {seqs}")
        if not engine.enforce_eager:
            ways.append("engine.enforce_eager: true")
        if len(plan.place.cards) < 2 or engine.tensor_parallel_size:
            ways.append("more cards with engine.tensor_parallel_size")
    if len(plan.sizes) > 1:
        ways.append("a smaller guard")
    return f"Ways out: {'; '.join(ways)}; a smaller base_model; a larger card."


def _cpu(plan: Plan, problems: list[str], warnings: list[str]) -> None:
    size = plan.sizes.get("target")
    weights = sum(one.weight_bytes("float32") for one in plan.sizes.values())
    memory = psutil.virtual_memory().total
    if weights > memory and not plan.place.elsewhere:
        problems.append(
            f"generation does not fit this machine: without a GPU the weights take {gigabytes(weights)} in float32, "
            f"and it has {gigabytes(memory)} of memory. Use a GPU, or a smaller base_model."
        )
    if size is not None and size.parameters > _CPU_PARAMETERS:
        warnings.append(
            f"no GPU was found, and the model has {size.parameters / 1e9:.1f} billion parameters: on a CPU every token "
            "takes a second or so. Name a card with --gpu to plan for one."
        )


def _training(cfg: Any, plan: Plan, problems: list[str], warnings: list[str]) -> None:
    card, need = plan.place.card, plan.training
    if need is None:
        warnings.append("the size of base_model cannot be told, so whether training fits is not known.")
        return
    for key in ("fsdp", "fsdp_config", "deepspeed", "tensor_parallel_size", "layer_offloading"):
        if cfg.get(key) and cfg.get(key) != 1:
            warnings.append(f"{key} is set: training is shared between cards, which the estimate does not know.")
            return
    if plan.settings.optimizer not in OPTIMIZERS:
        warnings.append(f"optimizer {plan.settings.optimizer}: assumed to keep two float32 values per parameter.")
    names = ("weights", "gradients", "optimizer", "activations", "logits")
    parts = ", ".join(f"{name} {gigabytes(getattr(need, name))}" for name in names)
    if need.total > card.memory_bytes * (1 + _DOUBT):
        problems.append(
            f"training does not fit {card.name}: about {gigabytes(need.total)} ({parts}) of "
            f"{gigabytes(card.memory_bytes)}. {_training_ways(plan)}"
        )
    elif need.total > card.memory_bytes * (1 - _DOUBT / 2):
        warnings.append(
            f"training may not fit {card.name}: about {gigabytes(need.total)} ({parts}) of "
            f"{gigabytes(card.memory_bytes)}, within the doubt of the estimate. {_training_ways(plan)}"
        )


def _training_ways(plan: Plan) -> str:
    settings, ways = plan.settings, []
    if not settings.adapter:
        ways.append("adapter: qlora with load_in_4bit: true")
    elif settings.quantization is None:
        ways.append("adapter: qlora and load_in_4bit: true")
    if not settings.adapter and not settings.optimizer.startswith("paged"):
        ways.append("optimizer: paged_adamw_8bit")
    if not settings.checkpointing:
        ways.append("gradient_checkpointing: true")
    if settings.logit_bytes:
        ways.append("a loss that never holds all logits (liger_fused_linear_cross_entropy with its plugin)")
    ways += ["a shorter sequence_len", "micro_batch_size: 1"]
    return f"Ways out: {'; '.join(ways)}; a smaller base_model; a larger card."


def _time(inputs: StageInputs, plan: Plan, problems: list[str], warnings: list[str]) -> None:
    limit = inputs.safety.max_hours
    if plan.hours is None:
        if plan.load.requests and (limit is not None or plan.place.card is not None):
            warnings.append(
                "how long it takes is not known before a few rows are measured"
                + (f", so max_hours {limit:g} is not checked" if limit is not None else "")
                + ": axolotl safety-plan --try 8."
            )
        return
    low, high = plan.seconds["fast"] / 3600, plan.seconds["slow"] / 3600
    said = f"the data stage takes about {plan.hours:.1f} hours ({low:.1f} to {high:.1f})"
    if limit is not None and plan.hours > limit:
        problems.append(
            f"{said}, and safety.max_hours is {limit:g}. Raise it, or take fewer rows (max_rows), shorter completions "
            "(sampling.max_new_tokens), fewer candidates or attempts, or more cards."
        )
    elif limit is None and plan.hours > _LONG_HOURS:
        warnings.append(f"{said}. Set safety.max_hours to be stopped instead, or max_rows to take fewer rows.")


def _assumptions(plan: Plan) -> list[str]:
    said = [
        "accepted candidates: "
        + ", ".join(f"{name} {100 * share:.0f} %" for name, share in plan.load.acceptance.items()),
        "tokens per completion: " + ", ".join(f"{name} {tokens:.0f}" for name, tokens in plan.load.lengths.items()),
    ]
    if plan.seconds is not None and plan.load.requests:
        said.append(
            "decoding reads weights and cache once per step at 60 % (40 to 80 %) of the card's bandwidth, plus 10 ms "
            "(5 to 20 ms); lengths within a factor of 1.5 unless measured"
        )
    return said
