"""Every model answers every prompt, through the engine and the journal of the data stage."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from axolotl_safety.config import SafetyConfig
from axolotl_safety.data.math_answers import JUDGES
from axolotl_safety.data.refusal.detector import is_refusal
from axolotl_safety.data.tokenizer import TargetTokenizer, take_apart
from axolotl_safety.engines.base import Completion, Engine, Failure, Request, Sampling
from axolotl_safety.engines.progress import Progress
from axolotl_safety.engines.queue import WorkQueue, content_id, gather
from axolotl_safety.guards.judge import Guard, GuardInput, GuardResult, ModelGuard, check_remote, judge
from axolotl_safety.methods.run import bounded
from axolotl_safety.pipeline.inputs import open_journals, target_fingerprint

from .attacks import ATTACKED, Asked, Attack, Thought
from .coherence import incoherence
from .items import Item, LoadedSet
from .models import EvalModel

Thoughts = MutableMapping[tuple[str, str, str], Thought | str]
_GUARD_SAYS = ("guard_unsafe", "guard_controversial", "guard_threshold")


@dataclass(frozen=True)
class Response:
    """What one model made of one prompt.

    Attributes:
        attack: the attack's name; empty for the plain prompt.
        thought: with what an attack began it with; so the answer.
        tokens: sampled by the model.
        finish: ``stop``, ``length``, ``failed``: the engine could not deliver it, or ``not_asked``: the attack cannot
            be made on this prompt.
        closed: no thought was left open.
        verdict: one word per guard; empty where none was asked. The reason of what failed or was not asked.
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
    attack: str = ""

    @property
    def delivered(self) -> bool:
        """Whether there is a response to read."""
        return self.finish in ("stop", "length")


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
        attacks: made on every prompt of the harm and over-refusal sets.
        make_engine: how an engine is started.
    """

    safety: SafetyConfig
    backend: str
    work_dir: Path
    guards: list[Guard]
    tokens: TargetTokenizer
    sampling: Sampling
    samples: int
    attacks: tuple[Attack, ...]
    make_engine: Callable[..., Engine]


async def answer_all(
    ctx: EvalContext, model: EvalModel, sets: Sequence[LoadedSet], thoughts: Thoughts
) -> list[Response]:
    """Ask one model everything, judge its answers, end its engine.

    Args:
        ctx: what all models are asked with.
        model: who is asked.
        sets: what is asked.
        thoughts: by axis, set and item what the base thought on its way to an answer, or why there is no such thought.
            The base, which is asked first, leaves them here, so that every model is attacked with the same ones.

    Returns:
        One response per prompt and sample, in the order of sets, items and samples; behind each those under attack.
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

    async def answer(one: LoadedSet, item: Item, sample: int, asked: Asked, attack: str = "") -> Response:
        request = _request(ctx, fingerprint, window, item.item_id, sample, asked)
        if request is None:
            return _not_asked(model, one, item, attack, "prompt_too_long")
        completion = await queue.completion(request, {"stage": "evaluation"})
        response = replace(_response(ctx.tokens, model.name, one, item, sample, asked, completion), attack=attack)
        if ctx.attacks and not attack and model.kind == "base" and isinstance(completion, Completion):
            thought = _compliant_thought(ctx.tokens, response, completion.token_ids)
            thoughts[response.axis, response.set, response.item] = thought
        if response.axis == "harm" and response.delivered:
            judged = GuardInput(response.prompt, response.thought, response.answer, "harmful")
            response = _ruled(response, await judge(queue, ctx.guards, judged, every=True))
        return response

    async def attacked(one: LoadedSet, item: Item, attack: Attack) -> Response:
        thought = thoughts.get((one.spec.axis, one.spec.name, item.item_id), "base_failed")
        asked = attack.ask(ctx.tokens, one.spec, item, thought)
        if isinstance(asked, str):
            return _not_asked(model, one, item, attack.name, asked)
        return await answer(one, item, 0, asked, attack.name)

    async def answers(place: tuple[LoadedSet, Item, int]) -> list[Response]:
        one, item, sample = place
        plain = await answer(one, item, sample, Asked(item.prompt, item.prompt_ids))
        attacks = ctx.attacks if one.spec.axis in ATTACKED else ()
        found = [plain, *await gather([attacked(one, item, attack) for attack in attacks])]
        progress.done()
        return found

    queue = WorkQueue(open_journals(ctx.work_dir, fingerprint, ctx.guards), start)
    async with queue:
        with Progress(f"answers of {model.name}", len(places), queue) as progress:
            return [response for found in await bounded(places, answers) for response in found]


def _not_asked(model: EvalModel, one: LoadedSet, item: Item, attack: str, why: str) -> Response:
    place = (one.spec.name, one.spec.axis, model.name, item.item_id)
    return Response(*place, 0, item.prompt, finish="not_asked", verdict=why, attack=attack)


def _compliant_thought(tokens: TargetTokenizer, response: Response, token_ids: tuple[int, ...]) -> Thought | str:
    """What leads an answer that is one, or why there is no such thought."""
    if not response.closed:
        return "base_unclosed"
    if response.refused:
        return "base_refused"
    if response.incoherent:
        return "base_incoherent"
    start, end = tokens.thought_span(token_ids)
    return Thought(token_ids[:start], token_ids[start:end]) if start < end else "base_no_thought"


def _request(
    ctx: EvalContext, fingerprint: str, max_positions: int | None, item_id: str, sample: int, asked: Asked
) -> Request | None:
    """None where the window leaves no room for an answer."""
    prompt_ids = (*asked.prompt_ids, *asked.begun_ids)
    room = ctx.sampling.max_new_tokens
    if max_positions is not None:
        room = min(room, max_positions - len(prompt_ids))
    if room < 1:
        return None
    sampling = replace(ctx.sampling, max_new_tokens=room)
    seed = ctx.safety.seed
    identity = ("evaluation", fingerprint, seed, item_id, sample, prompt_ids, sampling.as_dict())
    return Request(content_id(*identity), "target", prompt_ids, sampling, seed, ctx.tokens.stop_token_ids)


def _response(
    tokens: TargetTokenizer,
    model: str,
    one: LoadedSet,
    item: Item,
    sample: int,
    asked: Asked,
    completion: Completion | Failure,
) -> Response:
    response = Response(one.spec.name, one.spec.axis, model, item.item_id, sample, item.prompt)
    if isinstance(completion, Failure):
        return replace(response, verdict=completion.reason)
    token_ids = (*asked.begun_ids, *completion.token_ids)
    thought, answer, closed = take_apart(tokens, token_ids)
    wrong = incoherence(item.row_prompt, answer, token_ids)
    if wrong == "language" and asked.text != item.prompt:  # a wrapper may have asked for that language, or is in it
        wrong = incoherence(asked.text, answer, token_ids)
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


def _ruled(response: Response, ruling: GuardResult) -> Response:
    harmful = bool(ruling.reason)
    unjudged = harmful and ruling.reason not in _GUARD_SAYS
    return replace(response, verdict=ruling.verdict, harmful=harmful, unjudged=unjudged)
