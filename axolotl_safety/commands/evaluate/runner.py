"""Every model answers every prompt, through the engine and the journal of the data stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from axolotl_safety.config import SafetyConfig
from axolotl_safety.data.math_answers import JUDGES
from axolotl_safety.data.refusal.detector import is_refusal
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.engines.base import Completion, Engine, Failure, Request, Sampling
from axolotl_safety.engines.progress import Progress
from axolotl_safety.engines.queue import WorkQueue, content_id
from axolotl_safety.guards.judge import Guard, GuardInput, GuardResult, ModelGuard, check_remote, judge
from axolotl_safety.methods.run import bounded
from axolotl_safety.pipeline.inputs import open_journals, target_fingerprint

from .coherence import incoherence
from .items import Item, LoadedSet
from .models import EvalModel

_GUARD_SAYS = ("guard_unsafe", "guard_controversial", "guard_threshold")


@dataclass(frozen=True)
class Response:
    """What one model made of one prompt.

    Attributes:
        finish: ``stop``, ``length``, or ``failed``: the engine could not deliver it.
        closed: no thought was left open.
        verdict: one word per guard; empty where none was asked.
        harmful: not clearly safe, as far as the guards say; None where none was asked.
        unjudged: no guard came to a verdict, so that ``harmful`` is the cautious reading.
        refused: by the refusal detector; what is incoherent refuses nothing.
        incoherent: why the answer says nothing (``empty``, ``loop``, ``language``); empty if it says something.
        correct: None but for reasoning.
    """

    set: str
    axis: str
    model: str
    item: str
    sample: int
    prompt: str
    thought: str = ""
    answer: str = ""
    tokens: int = 0
    finish: str = "failed"
    closed: bool = False
    verdict: str = ""
    harmful: bool | None = None
    unjudged: bool = False
    refused: bool | None = None
    correct: bool | None = None
    incoherent: str = ""


@dataclass(frozen=True)
class EvalContext:
    """What all models are asked with.

    Attributes:
        safety: the YAML's section.
        backend: the engine's.
        work_dir: where the journals are.
        guards: the judges of harm.
        tokens: the base's tokenizer.
        sampling: of every completion.
        samples: completions per reasoning prompt.
        make_engine: how an engine is started.
    """

    safety: SafetyConfig
    backend: str
    work_dir: Path
    guards: list[Guard]
    tokens: TargetTokenizer
    sampling: Sampling
    samples: int
    make_engine: Callable[..., Engine]


async def answer_all(ctx: EvalContext, model: EvalModel, sets: Sequence[LoadedSet]) -> list[Response]:
    """Ask one model everything, judge its answers, end its engine.

    Returns:
        One response per prompt and sample, in the order of sets, items and samples.
    """
    fingerprint = target_fingerprint(model.files, ctx.safety, ctx.backend)
    models = {"target": model.files.spec}
    models |= {guard.key: guard.files.spec for guard in ctx.guards if isinstance(guard, ModelGuard)}

    def start() -> Engine:
        check_remote(ctx.guards)
        return ctx.make_engine(ctx.safety.engine, ctx.backend, ctx.work_dir, models)

    window = model.files.max_positions
    places = [
        (one, item, sample)
        for one in sets
        for item in one.items
        for sample in range(ctx.samples if one.spec.axis == "reasoning" else 1)
    ]

    async def answer(place: tuple[LoadedSet, Item, int]) -> Response:
        one, item, sample = place
        request = _request(ctx, fingerprint, window, item, sample)
        completion = await queue.completion(request, {"stage": "evaluation"})
        response = _response(ctx.tokens, model.name, one, item, sample, completion)
        if response.axis == "harm" and response.finish != "failed":
            asked = GuardInput(response.prompt, response.thought, response.answer, "harmful")
            response = _ruled(response, await judge(queue, ctx.guards, asked, every=True))
        progress.done()
        return response

    queue = WorkQueue(open_journals(ctx.work_dir, fingerprint, ctx.guards), start)
    async with queue:
        with Progress(f"answers of {model.name}", len(places), queue) as progress:
            return await bounded(places, answer)


def _request(ctx: EvalContext, fingerprint: str, max_positions: int | None, item: Item, sample: int) -> Request:
    room = ctx.sampling.max_new_tokens
    if max_positions is not None:
        room = min(room, max_positions - len(item.prompt_ids))
    sampling = replace(ctx.sampling, max_new_tokens=room)
    seed = ctx.safety.seed
    identity = ("evaluation", fingerprint, seed, item.item_id, sample, item.prompt_ids, sampling.as_dict())
    return Request(content_id(*identity), "target", item.prompt_ids, sampling, seed, ctx.tokens.stop_token_ids)


def _response(
    tokens: TargetTokenizer,
    model: str,
    one: LoadedSet,
    item: Item,
    sample: int,
    completion: Completion | Failure,
) -> Response:
    response = Response(one.spec.name, one.spec.axis, model, item.item_id, sample, item.prompt)
    if isinstance(completion, Failure):
        return replace(response, verdict=completion.reason)
    thought, answer, closed = take_apart(tokens, completion.token_ids)
    wrong = incoherence(item.row_prompt, answer, completion.token_ids)
    correct = JUDGES[one.spec.judge](answer, item.gold) if one.spec.axis == "reasoning" else None
    return replace(
        response,
        thought=thought,
        answer=answer,
        tokens=len(completion.token_ids),
        finish=completion.finish_reason,
        closed=closed,
        refused=is_refusal(answer) and not wrong,
        correct=correct,
        incoherent=wrong,
    )


def take_apart(tokens: TargetTokenizer, token_ids: tuple[int, ...]) -> tuple[str, str, bool]:
    """Thought, answer, and whether no thought was left open. A thought that never ends leaves no answer.

    A model that tuning has taught not to think at all gives an answer and no thought: with no marker anywhere, the text
    is the answer.
    """
    split = tokens.split(token_ids)
    think = tokens.thinking
    if split.fault != "unclosed_think":
        return split.thinking, split.answer, True
    text = split.thinking.strip()
    if not think.prompt_opens and think.open not in text:
        return "", text.removeprefix(think.markers.silent), True
    return text.removeprefix(think.open).strip(), "", False


def _ruled(response: Response, ruling: GuardResult) -> Response:
    harmful = bool(ruling.reason)
    unjudged = harmful and ruling.reason not in _GUARD_SAYS
    return replace(response, verdict=ruling.verdict, harmful=harmful, unjudged=unjudged)
