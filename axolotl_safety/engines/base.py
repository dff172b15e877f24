"""What an engine is asked and what it answers. Token ids in, token ids out; text never crosses this line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from axolotl_safety.util.terminal import PlainError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How a completion is drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass kept, 1.0 keeps all.
        top_k: tokens kept, 0 keeps all.
        max_new_tokens: completion length limit in tokens, the end-of-sequence token included.
    """

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the wire, provenance and fingerprints."""
        return asdict(self)


@dataclass(frozen=True)
class ModelSpec:
    """A model that an engine serves under a name (``target``, ``guard0``).

    Attributes:
        path: local folder or hub id.
        revision: hub revision, or None.
        dtype: ``auto`` (float32 on a CPU, else the checkpoint's), ``float32``, ``bfloat16``, ``float16``.
        quantization: None, or a scheme that the backend knows.
        trust_remote_code: only what the user set for ``base_model``.
        max_model_len: tokens of the longest sequence that will be asked; None is the model's window.
        adapter: folder of a LoRA adapter on top of it, or None.
    """

    path: str
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    trust_remote_code: bool = False
    max_model_len: int | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Request:
    """Ask for one completion. ``seed`` and ``request_id`` alone decide the draw, never the batch mates.

    Attributes:
        turn: of what waits for an engine, the lowest goes first. It is the place of the row that the request is for, so
            that a row under way is finished before another one begins. No part of the request's identity.
    """

    request_id: str
    model: str
    prompt_token_ids: tuple[int, ...]
    sampling: Sampling
    seed: int
    stop_token_ids: tuple[int, ...]
    turn: int = field(default=0, compare=False)

    @property
    def tokens(self) -> int:
        """The longest that the sequence can become."""
        return len(self.prompt_token_ids) + self.sampling.max_new_tokens


@dataclass(frozen=True)
class ScoreRequest:
    """Ask for log p(response | prompt) of the model's distribution at ``temperature``, nothing truncated."""

    request_id: str
    model: str
    prompt_token_ids: tuple[int, ...]
    response_token_ids: tuple[int, ...]
    temperature: float = 1.0
    turn: int = field(default=0, compare=False)

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return len(self.prompt_token_ids) + len(self.response_token_ids)


@dataclass(frozen=True)
class Completion:
    """A finished completion.

    Attributes:
        token_ids: the sampled ids, the stop token included when one was sampled.
        finish_reason: ``stop`` (a stop token was sampled) or ``length``.
        logprob: sum over the sampled tokens of log p at temperature 1 without truncation, in nats, under the
            prompt that was asked (not the raw prompt).
    """

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprob: float


@dataclass(frozen=True)
class Score:
    """Sum of log p over the response tokens (nats, at the asked temperature) and how many tokens those were."""

    request_id: str
    logprob: float
    num_tokens: int


@dataclass(frozen=True)
class Failure:
    """A request that the engine gave up on: ``reason`` is ``poisoned``, ``refused``, or a server's ``malformed``."""

    request_id: str
    reason: str
    message: str


Result = Completion | Score | Failure


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU around an engine run.

    Attributes:
        gpu: as ``CUDA_VISIBLE_DEVICES`` names it.
        used_before_bytes: in use before the engine started, by whomever.
        used_after_bytes: in use after it ended.
        limit_bytes: what may be in use after it.
        holders: the processes on it after the engine, other than ours: id, name and memory.
    """

    gpu: str
    used_before_bytes: int
    used_after_bytes: int
    limit_bytes: int
    holders: tuple[str, ...] = ()

    @property
    def given_back(self) -> bool:
        """Whether the engine's memory is free again."""
        return self.used_after_bytes <= self.limit_bytes


@dataclass
class EngineFigures:
    """What an engine run cost, for the log and the manifest.

    Attributes:
        starts: processes started.
        pids: their ids, each on its own machine.
        peak_rss_bytes: the largest process's peak of main memory.
        gpu_memory: per GPU, before and after; empty without a GPU.
        seconds: lifetimes of all processes together.
        worker: what the last process said of itself: device and versions.
        server: what a server that is not ours says of itself.
    """

    starts: int = 0
    pids: list[int] = field(default_factory=list)
    peak_rss_bytes: int = 0
    gpu_memory: tuple[GpuMemory, ...] = ()
    seconds: float = 0.0
    worker: dict[str, str] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Models behind one door: each request is answered on its own, in whatever order suits the engine.

    Attributes:
        figures: what it has cost so far.
    """

    figures: EngineFigures

    def window(self, model: str) -> int:
        """Requests for a model that it can make use of at once: enough that it never waits for more."""

    async def answer(self, request: Request | ScoreRequest) -> Result:
        """The result of one request; the engine starts, and the model loads, if need be.

        Raises:
            EngineError, StageError: the engine cannot go on; every request that is under way fails with it.
        """

    async def close(self, at_once: bool = False) -> None:
        """End the engine and verify that nothing of it is left. Safe to call twice.

        Args:
            at_once: kill instead of asking: after an error or an interruption.
        """


@dataclass(frozen=True, eq=False)  # a record is itself alone
class Backend:
    """A way to run models: what stands behind ``safety.engine.backend``.

    Attributes:
        name: in the YAML.
        start: makes an engine; the arguments are `choose.start_engine`'s.
        resolve: the name of the backend that does the work, this one's but for Ray; raises `ConfigError` where it
            cannot run here. Given the section, and how to look at an interpreter and for a GPU (see `choose`).
        local: its models take this machine's memory, so that a plan can count it.
        paged: it sets memory aside for keys and values when it starts, as vLLM does; else they grow with the rows.
        any_temperature: it gives log p at any temperature, which ``choice: resample`` weighs by; else at 1 only.
        adapters: it loads a LoRA adapter beside its base; None where it cannot load another model at all.
    """

    name: str
    start: Callable[..., Engine]
    resolve: Callable[..., str]
    local: bool = False
    paged: bool = False
    any_temperature: bool = False
    adapters: bool | None = False


class EngineError(PlainError, RuntimeError):
    """The engine cannot go on. The message says what happened, the value seen and the way out."""


@dataclass(frozen=True)
class Question:
    """Ask a judge behind an HTTP endpoint for one verdict, in text.

    Attributes:
        messages: role and content of each, in the place of ``system`` and ``user``.
    """

    request_id: str
    model: str
    system: str
    user: str
    turn: int = field(default=0, compare=False)
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def tokens(self) -> int:
        """Not known; a judge's server counts for itself."""
        return 0


@dataclass(frozen=True)
class Answer:
    """What such a judge wrote; ``finish_reason`` is the server's, ``stop`` when it ended by itself."""

    request_id: str
    text: str
    finish_reason: str
