"""What a method is, and what it is given."""

from __future__ import annotations

import pkgutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from axolotl_safety.config import METHODS, SafetyConfig
from axolotl_safety.config.prompts import Prompt
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.data.types import Outcome, Task
from axolotl_safety.engines.base import Sampling
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.guards.judge import Guard


@dataclass(frozen=True)
class MethodContext:
    """What a method's coroutine is given besides its row.

    Attributes:
        config: the method's own block, with a prompt's name in the place of each ``auto``.
        queue: the engine's door.
        tokens: the target's tokenizer.
        guards: the judges.
        fingerprint: everything about the target and the engine that changes what is sampled.
        max_positions: the target's window in tokens.
        sequence_len: the longest row that Axolotl keeps, in tokens.
        sampling: as resolved for this method; None for one that generates nothing.
        seed: as set by the user.
        choice: ``first``, ``lowest_nll`` or ``resample``.
        turn: the row's place in the order of asking.
        others: contexts of the methods that this one may hand a row to, by name.
    """

    config: Any
    queue: WorkQueue
    tokens: TargetTokenizer
    guards: Sequence[Guard]
    fingerprint: str
    max_positions: int | None
    sequence_len: int
    sampling: Sampling | None
    seed: int
    choice: str
    turn: int = 0
    others: Mapping[str, MethodContext] = field(default_factory=dict)


@dataclass(frozen=True)
class AutoPrompt:
    """How a method's ``auto`` is settled.

    Attributes:
        named: the prompts to try, by name.
        rows: of those that the method may answer, the rows to try them on.
        propose: what the target sees of a row under a prompt.
        count: rows that each is tried on.
        settle: the block with the chosen name in the place of ``auto``.
    """

    named: Mapping[str, Prompt]
    rows: Callable[[Sequence[Task]], Sequence[Task]]
    propose: Callable[[MethodContext, Prompt, Task], Any]
    count: int
    settle: Callable[[str], Any]


@dataclass(frozen=True)
class Expected:
    """What a plan assumes of one candidate before any was made.

    Attributes:
        acceptance: chance that checks and guards accept it, by label; of one that is not there, the lowest.
        tokens: its length by label and tokens of the row's reference.
        proposals: the same chance for harmful rows, by proposal, where it differs.
        rounds: by the method's block, rounds that follow an accepted response, each about as long.
    """

    acceptance: Mapping[str, float]
    tokens: Callable[[str, int], float]
    proposals: Mapping[str, float] = field(default_factory=dict)
    rounds: Callable[[Any], int] = lambda config: 0


@dataclass(frozen=True, eq=False)  # a record is itself alone
class Method:
    """One way to make a training row of a source row: what stands behind ``type: axolotl_safety.<name>``.

    Attributes:
        name: in ``type:``, in proposals and in the manifest.
        answer: one row's story, from the first question to its outcome.
        reads_reference: it reads the row's response, and rows without one are rejected. Otherwise a row is not lost for
            its response, and row or user must say what a prompt is.
        generates: it asks the engine and needs guards.
        config: its block of the section.
        hands_to: name of the method that answers what this one could not, None if there is none.
        auto: how ``auto`` is settled, None where the block does not say ``auto``.
        prompts: every prompt that it may show, by the name that a row's proposal carries.
        expected: what a plan assumes; None for a method that generates nothing.
    """

    name: str
    answer: Callable[[Task, MethodContext], Awaitable[Outcome]]
    reads_reference: bool
    generates: bool = True
    config: Callable[[SafetyConfig], Any] = lambda safety: None
    hands_to: Callable[[SafetyConfig], str | None] = lambda safety: None
    auto: Callable[[SafetyConfig], AutoPrompt | None] = lambda safety: None
    prompts: Callable[[SafetyConfig], Mapping[str, Prompt]] = lambda safety: {}
    expected: Expected | None = None


def method_named(name: str) -> Method:
    """The record of a method in the table `config.METHODS`."""
    return pkgutil.resolve_name(METHODS[name])


def generating(safety: SafetyConfig, names: Sequence[str]) -> list[str]:
    """Of these methods those that ask the engine, and those that they hand rows to."""
    found: set[str] = set()
    for method in map(method_named, names):
        if method.generates:
            found |= {method.name} | ({method.hands_to(safety)} - {None})
    return sorted(found)


def may_answer(safety: SafetyConfig, method: str, own: str) -> bool:
    """Whether a method may be asked about rows whose own method is ``own``."""
    return method in (own, method_named(own).hands_to(safety))
