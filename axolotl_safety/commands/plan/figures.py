"""A plan as figures: where a run would take place, what it would take, and what stands against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from axolotl_safety.engines.gpu.sizes import ModelSize

from .cards import Card
from .memory import EngineMemory, LoadedModel
from .training import Training, TrainingMemory
from .workload import Workload


@dataclass(frozen=True)
class Hardware:
    """Where a run would take place.

    Attributes:
        cards: what it may use, all alike; none for a CPU.
        elsewhere: the cards were named and this machine is another one.
    """

    cards: tuple[Card, ...]
    elsewhere: bool = False

    @property
    def card(self) -> Card | None:
        """One of them."""
        return min(self.cards, key=lambda card: card.memory_bytes) if self.cards else None


@dataclass(frozen=True)
class Judging:
    """What ``safety.stop`` asks of the model that is trained.

    Attributes:
        prompts: development prompts by label.
        every: steps from one judgement to the next.
        times: judgements at most; None where the YAML does not say how many steps there are.
        tokens: that one judgement writes at most.
    """

    prompts: Mapping[str, int]
    every: int
    times: int | None
    tokens: int


@dataclass(frozen=True)
class Plan:
    """What a run would take.

    Attributes:
        copies: of the engine, one per card or tensor-parallel group.
        sizes: by model; a model whose size cannot be told is missing.
        residents: by model, as the engine holds it.
        engine: memory on one card; None on a CPU, for a server, or without sizes.
        seconds: by assumption; None if unknown.
        rate: tokens per second of the target with all slots busy, by assumption; likewise.
        training: memory on one card; None without a size.
        judging: what ``safety.stop`` asks while training runs; None without it.
    """

    model: str
    backend: str
    place: Hardware
    copies: int
    sizes: Mapping[str, ModelSize]
    residents: Mapping[str, LoadedModel]
    load: Workload
    engine: EngineMemory | None
    seconds: Mapping[str, float] | None
    rate: Mapping[str, float] | None
    settings: Training
    training: TrainingMemory | None
    disk_bytes: int
    findings: Findings
    judging: Judging | None = None

    @property
    def can_run(self) -> bool:
        """Whether nothing stands against it."""
        return not self.findings.problems

    @property
    def hours(self) -> float | None:
        """Of the middle assumption."""
        return None if self.seconds is None else self.seconds["middle"] / 3600


@dataclass(frozen=True)
class Findings:
    """Sentences: why it cannot run and what to change; why it may not, or takes long; what the figures rest on."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    assumptions: tuple[str, ...]
