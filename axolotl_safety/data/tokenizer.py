"""Prompt ids in, thought and answer out: a tokenizer with what the stage needs of it."""

from __future__ import annotations

import copy
import logging
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from axolotl_safety.config import ThinkConfig
from axolotl_safety.util.errors import ModelError

from .chat_template import control_tokens, frames, probe_template, renderer, written_markers
from .thinking import chosen_markers, find_thinking, unused_switch
from .turn_end import behind_response, template_end

LOG = logging.getLogger(__name__)
_USER = "axolotl safety probe"


def encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Ids of a text that already holds every special token it needs, as ``tokenizer.encode`` gives them.

    A fast tokenizer is asked without the offsets that nobody reads, which takes two thirds of the time.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not getattr(tokenizer, "is_fast", False) or not hasattr(backend, "encode_batch_fast"):
        return lambda text: tokenizer.encode(text, add_special_tokens=False)
    tokenizer.encode("x", add_special_tokens=False)  # switches off what tokenizer.json says of cutting and padding
    return lambda text: backend.encode_batch_fast([text], add_special_tokens=False)[0].ids


def decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Text with every token shown, exactly as the ids spell it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not getattr(tokenizer, "is_fast", False) or backend is None:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return lambda ids: tokenizer.decode(ids, **options)
    return lambda ids: backend.decode(ids, skip_special_tokens=False)


def _find(marker: Sequence[int], token_ids: Sequence[int]) -> int | None:
    """Where a run of ids begins for the first time."""
    place = -1
    while marker[0] in token_ids[place + 1 :]:
        place = token_ids.index(marker[0], place + 1)
        if tuple(token_ids[place : place + len(marker)]) == tuple(marker):
            return place
    return None


@dataclass(frozen=True)
class Split:
    """A response taken apart. ``fault`` is empty, or the reject reason."""

    thinking: str
    answer: str
    fault: str = ""


class TargetTokenizer:
    """The base model's own tokenizer with what the stage needs of it: prompt ids in, thought and answer out."""

    def __init__(
        self,
        tokenizer: Any,
        stop_token_ids: tuple[int, ...],
        think: ThinkConfig | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ):
        """Work out how the model thinks and where its turns end.

        Args:
            tokenizer: a transformers tokenizer with the chat template that the tuned model will have.
            stop_token_ids: the ids that end a turn, as the model's files and the YAML name them.
            think: the markers where the user names them.
            template_kwargs: what every rendering gives the template; None: what ``think`` says.

        Raises:
            ModelError: no chat template, a template without thinking, or no end-of-sequence token.
        """
        self.tokenizer = tokenizer
        self.encode, self.decode = encoder(tokenizer), decoder(tokenizer)
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, so no prompt can be rendered. "
                "Use an instruction-tuned reasoning model as base_model, or add a chat template to its tokenizer."
            )
        if not stop_token_ids:
            raise ModelError(
                f"{tokenizer.name_or_path!r} names no end-of-sequence token, neither in its tokenizer nor in its "
                "generation_config.json; completions could not end. Set eos_token in the tokenizer."
            )
        own = think.chat_template_kwargs if think else {}
        self.template_kwargs = dict(own if template_kwargs is None else template_kwargs)
        self._rendered = renderer(tokenizer, self.template_kwargs)
        framed = frames(self._rendered)
        self.added_tokens = control_tokens(tokenizer, framed)
        self._find_thinking(think)
        opening = Counter(self.thinking.open_tokens)
        marks = opening + self._count_added(self.encode(self.thinking.close))
        # What a response holds of control tokens, and nothing more.
        self._marks = marks - opening if self.thinking.prompt_opens else marks
        can_end = self._added_ids - marks.keys()
        self.behind_response = behind_response(self._rendered)
        self.template_end = template_end(self.behind_response, self.encode, can_end, stop_token_ids)
        self.turn_end_id = stop_token_ids[0] if self.template_end is None else self.template_end
        self.stop_token_ids = tuple(dict.fromkeys((*stop_token_ids, self.turn_end_id)))
        self._expected: dict[tuple[str, tuple[str, ...]], Counter[int]] = {}
        tokens = {*self.added_tokens, self.thinking.open, self.thinking.close}
        self._written = written_markers(framed, tokens)
        words = sorted({*tokens, *self._written}, key=len, reverse=True)
        self._control_words = re.compile("|".join(map(re.escape, words)))

    def _find_thinking(self, think: ThinkConfig | None) -> None:
        name, template = self.tokenizer.name_or_path, self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default", "")
        every = {str(token): index for index, token in self.tokenizer.added_tokens_decoder.items()}
        markers = chosen_markers(name, template, every, think)
        self.added_tokens |= {word: every[word] for word in (markers.open, markers.close) if word in every}
        self._added_ids = frozenset(self.added_tokens.values())
        prompt = probe_template(name, self._rendered, _USER)
        self.thinking = find_thinking(name, markers, prompt, self.template_kwargs, self.added_tokens, self.encode)
        way = "" if self.thinking.prompt_opens else unused_switch(self.template_kwargs, self._rendered)
        if way:
            LOG.warning("the chat template of %r has a mode that is not used. If it thinks only there, %s", name, way)

    def _render(self, user: str, history: Iterable[tuple[str, str]] = ()) -> str:
        turns = [{"role": role, "content": text} for role, text in (*history, ("user", user))]
        return self._rendered(turns)

    def _count_added(self, token_ids: Iterable[int]) -> Counter[int]:
        return Counter(filter(self._added_ids.__contains__, token_ids))

    def prompt_ids(
        self, user: str, harmless: str = "x", history: tuple[tuple[str, str], ...] = ()
    ) -> tuple[int, ...] | None:
        """Ids of the generation prompt for one user message.

        Args:
            user: the message.
            harmless: the same message with harmless words in the place of the row's text; it shows which special
                tokens belong there (the template's, and the think markers that our adapter puts around a reference).
            history: role and content of the turns before it.

        Raises:
            jinja2.TemplateError: the chat template takes no such conversation.

        Returns:
            The ids, or None when the row's text smuggles in a control token (even one that only appears after the
            tokenizer's normalisation or across the edge of the template).
        """
        if self._writes_a_turn(user, *(text for _, text in history)):
            return None
        roles = tuple(role for role, _ in history)
        expected = self._expected.get((harmless, roles))
        if expected is None:
            expected = self._count_added(self.encode(self._render(harmless, [(role, "x") for role in roles])))
            self._expected[(harmless, roles)] = expected
        token_ids = self.encode(self._render(user, history))
        return tuple(token_ids) if self._count_added(token_ids) == expected else None

    def has_control_token(self, *texts: str) -> bool:
        """Whether a row's text spells an added token, a think marker or a turn marker that is plain text."""
        return any(self._control_words.search(text) for text in texts)

    def _writes_a_turn(self, *texts: str) -> bool:
        return any(marker in text for marker in self._written for text in texts)

    def split(self, token_ids: tuple[int, ...]) -> Split:
        """Take a sampled response apart, from its ids.

        A marker that is one added token counts only as that token: the same letters spelt with ordinary tokens
        are text, and a fault, because training on them would teach a false marker.
        """
        body = list(token_ids)
        if body and body[-1] in self.stop_token_ids:
            body.pop()
        think = self.thinking
        if think.close_ids:
            place = _find(think.close_ids, body)
            if place is None:
                return Split(self.decode(body), "", "unclosed_think")
            behind = body[place + len(think.close_ids) :]
            head, tail = self.decode(body[:place]), self.decode(behind)
            extra = _find(think.close_ids, behind) is not None
        else:
            head, closed, tail = self.decode(body).partition(think.close)
            if not closed:
                return Split(head, "", "unclosed_think")
            extra = False
        if not think.prompt_opens:
            if not head.lstrip().startswith(think.open):
                return Split(head.strip(), tail.strip(), "unopened_think")
            if not Counter(think.open_tokens) <= Counter(body):
                return Split(head.strip(), tail.strip(), "stray_marker")
            head = head.lstrip()[len(think.open) :]
        if extra or any(marker in part for part in (head, tail) for marker in (think.open, think.close)):
            return Split(head.strip(), tail.strip(), "stray_marker")
        if not self._count_added(body) <= self._marks or self._writes_a_turn(head, tail):
            return Split(head.strip(), tail.strip(), "control_token")
        return Split(head.strip(), tail.strip())

    def next_ids(self, thought: str, answer: str | None = None) -> tuple[int, ...]:
        """Ids of words behind a thought that has begun; with an answer, they close it and begin that."""
        if answer is None:
            return tuple(self.encode(thought))
        before, after = self.thinking.markers.frame.split("{thought}")[1].split("{answer}")[0].split("{close}")
        return tuple(self.encode(f"{thought}{before}{self.thinking.close}{after}{answer}"))

    def rest_of_thought(self, token_ids: tuple[int, ...]) -> str:
        """What the ids of a response that go on within its thought add to it."""
        return self.decode(list(token_ids)).partition(self.thinking.close)[0].strip()

    def with_template(self, template: str) -> Any:
        """A copy of the tokenizer with another chat template."""
        made = copy.deepcopy(self.tokenizer)
        made.chat_template = template
        return made

    def thought_length(self, token_ids: tuple[int, ...]) -> int:
        """Tokens of a response up to and with the closing marker; 0 if it has none."""
        think = self.thinking
        if think.close_ids:
            place = _find(think.close_ids, token_ids)
            return 0 if place is None else place + len(think.close_ids)
        ends = range(1, len(token_ids) + 1)
        place = bisect_left(ends, True, key=lambda end: think.close in self.decode(list(token_ids[:end])))
        return ends[place] if place < len(ends) else 0

    def thought_span(self, token_ids: tuple[int, ...]) -> tuple[int, int]:
        """Where the thought of a response begins and ends: without its markers, and the blank space behind the first.

        Both are 0 where the thought was never closed. A token that holds an end of the thought and the beginning of a
        marker is none of the thought.
        """
        think, end = self.thinking, self.thought_length(token_ids)
        if think.close_ids:
            end = max(end - len(think.close_ids), 0)
        elif end:
            length = self.decode(list(token_ids[:end])).index(think.close)
            end = self._tokens_while(token_ids, end, lambda text: len(text) <= length)

        def opens(text: str) -> bool:
            if think.prompt_opens:
                return not text.strip()
            text = text.lstrip()
            return think.open.startswith(text) or not text.removeprefix(think.open).strip()

        return self._tokens_while(token_ids, end, opens), end

    def _tokens_while(self, token_ids: Sequence[int], end: int, holds: Callable[[str], bool]) -> int:
        """The most tokens of the first `end` whose text has a property that more tokens can only lose."""
        return bisect_left(range(1, end + 1), True, key=lambda n: not holds(self.decode(list(token_ids[:n]))))

    def begun_ids(self, thought: str, answer: str | None = None) -> tuple[int, ...]:
        """Ids of a response that has begun so, within its thought or, where one is given, within its answer."""
        text = self._behind_prompt(thought, answer or "")
        return tuple(self.encode(text if answer is not None else text.partition(self.thinking.close)[0].rstrip()))

    def _behind_prompt(self, thought: str, answer: str) -> str:
        """A response without what the generation prompt holds of it."""
        text = self.thinking.wrap(thought, answer)
        if self.thinking.prompt_opens:
            text = text.removeprefix(self.thinking.open)
            if self.thinking.prompt_tail.endswith("\n"):
                text = text.removeprefix("\n")
        return text

    def response_ids(self, thought: str, answer: str) -> tuple[int, ...] | None:
        """Ids of a foreign response, as this model would have to write it after its generation prompt.

        Only for rows that the model did not write itself (the vanilla baseline, ``keep_original`` and the shift
        meter): a sampled response keeps its own ids.

        Returns:
            The ids with the end-of-turn token, or None when the text smuggles in a control token.
        """
        token_ids = self.encode(self._behind_prompt(thought, answer))
        sound = self._count_added(token_ids) == self._marks and not self._writes_a_turn(thought, answer)
        return (*token_ids, self.turn_end_id) if sound else None


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
