"""Think markers, prompt ids and response splits: the one place that knows how a model family thinks."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from axolotl_safety.config import ThinkConfig
from axolotl_safety.util.errors import ModelError

from .chat_template import probe_template, written_markers

OPEN, CLOSE = "<think>", "</think>"
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


def split_response(text: str) -> tuple[str, str]:
    """Split a response, with or without the opening marker (R1-Distill's prompt holds it), into thought and answer.

    Returns:
        ``(thinking, answer)``, both without the blank space around the markers. A thought that was opened and
        never closed gives ``(thought, "")``; a text without markers gives ``("", text)``.
    """
    head, closed, tail = text.partition(CLOSE)
    opened = head.lstrip().startswith(OPEN)
    if opened:
        head = head.lstrip()[len(OPEN) :]
    if closed:
        return head.strip(), tail.strip()
    return (head.strip(), "") if opened else ("", text.strip())


@dataclass(frozen=True)
class Thinking:
    """How this model marks its thoughts.

    Attributes:
        open_id: id of the marker where it is one added token, else None (the marker is plain text).
        close_id: likewise.
        prompt_opens: the generation prompt already ends in the opening marker (R1-Distill).
        prompt_tail: the text of the generation prompt from the opening marker on (empty if it does not open).
    """

    open: str
    close: str
    open_id: int | None
    close_id: int | None
    prompt_opens: bool
    prompt_tail: str

    def wrap(self, thought: str, answer: str) -> str:
        """A full response as text, markers included."""
        return f"{self.open}\n{thought}\n{self.close}\n\n{answer}"


@dataclass(frozen=True)
class Split:
    """A response taken apart. ``fault`` is empty, or the reject reason."""

    thinking: str
    answer: str
    fault: str = ""


class TargetTokenizer:
    """The base model's own tokenizer with what the stage needs of it: prompt ids in, thought and answer out."""

    def __init__(self, tokenizer: Any, stop_token_ids: tuple[int, ...], think: ThinkConfig | None = None):
        """Work out how the model thinks.

        Args:
            tokenizer: a transformers tokenizer with its own chat template.
            stop_token_ids: the ids that end a turn (generation config and tokenizer).
            think: the markers where the user names them.

        Raises:
            ModelError: no chat template, a template without thinking, or no end-of-sequence token.
        """
        self.tokenizer = tokenizer
        self.encode, self.decode = encoder(tokenizer), decoder(tokenizer)
        self.stop_token_ids = stop_token_ids
        # Some families add runs of blanks as tokens (Gemma, Phi); those are text, not control.
        self.added_tokens = {
            str(token): index
            for index, token in tokenizer.added_tokens_decoder.items()
            if str(token).replace("\u2581", "").strip()  # SentencePiece writes a blank as U+2581
        }
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
        self.thinking = self._find_thinking(think)
        self._added_ids = frozenset(self.added_tokens.values())
        self._marker_ids = {self.thinking.open_id, self.thinking.close_id} - {None}
        self._control_ids = self._added_ids - self._marker_ids
        self._expected: dict[tuple[str, tuple[str, ...]], Counter[int]] = {}
        tokens = {*self.added_tokens, self.thinking.open, self.thinking.close}
        self._written = written_markers(tokenizer, tokens)
        words = sorted({*tokens, *self._written}, key=len, reverse=True)
        self._control_words = re.compile("|".join(map(re.escape, words)))

    def _find_thinking(self, think: ThinkConfig | None) -> Thinking:
        open_marker, close_marker = (think.open, think.close) if think else (OPEN, CLOSE)
        template = self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default", "")
        named = close_marker in template or {open_marker, close_marker} <= self.added_tokens.keys()
        if think is None and not named:
            raise ModelError(
                f"{self.tokenizer.name_or_path!r} does not look like a reasoning model: neither its chat template nor "
                f"its added tokens know {close_marker!r}. Use a reasoning model, or name its markers under "
                "safety.think: {open: ..., close: ...}."
            )
        # A system prompt may speak of the markers too; what counts stands behind the user's message.
        text = probe_template(self.tokenizer, _USER).rpartition(_USER)[2]
        at = text.rfind(open_marker)
        prompt_opens = at >= 0 and not text[at + len(open_marker) :].strip()
        if close_marker in text[max(at, 0) :]:
            raise ModelError(
                f"the generation prompt of {self.tokenizer.name_or_path!r} closes the thought before the model "
                f"writes a token: {text[max(at, 0) :]!r}. Use the model's thinking mode."
            )
        return Thinking(
            open_marker,
            close_marker,
            self.added_tokens.get(open_marker),
            self.added_tokens.get(close_marker),
            prompt_opens,
            text[at:] if prompt_opens else "",
        )

    def _render(self, user: str, history: Iterable[tuple[str, str]] = ()) -> str:
        turns = [{"role": role, "content": text} for role, text in (*history, ("user", user))]
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

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
        if think.close_id is not None:
            if think.close_id not in body:
                return Split(self.decode(body), "", "unclosed_think")
            place = body.index(think.close_id)
            head, tail = self.decode(body[:place]), self.decode(body[place + 1 :])
            extra = think.close_id in body[place + 1 :]
        else:
            head, closed, tail = self.decode(body).partition(think.close)
            if not closed:
                return Split(head, "", "unclosed_think")
            extra = False
        if not think.prompt_opens:
            if not head.lstrip().startswith(think.open):
                return Split(head.strip(), tail.strip(), "unopened_think")
            if think.open_id is not None and think.open_id not in body:
                return Split(head.strip(), tail.strip(), "stray_marker")
            head = head.lstrip()[len(think.open) :]
        if extra or any(marker in part for part in (head, tail) for marker in (think.open, think.close)):
            return Split(head.strip(), tail.strip(), "stray_marker")
        if not self._control_ids.isdisjoint(body) or self._writes_a_turn(head, tail):
            return Split(head.strip(), tail.strip(), "control_token")
        return Split(head.strip(), tail.strip())

    def thought_length(self, token_ids: tuple[int, ...]) -> int:
        """Tokens of a response up to and with the closing marker; 0 if it has none."""
        think = self.thinking
        if think.close_id is not None:
            return token_ids.index(think.close_id) + 1 if think.close_id in token_ids else 0
        ends = range(1, len(token_ids) + 1)
        place = bisect_left(ends, True, key=lambda end: think.close in self.decode(list(token_ids[:end])))
        return ends[place] if place < len(ends) else 0

    def response_ids(self, thought: str, answer: str) -> tuple[int, ...] | None:
        """Ids of a foreign response, as this model would have to write it after its generation prompt.

        Only for rows that the model did not write itself (the vanilla baseline, ``keep_original`` and the shift
        meter): a sampled response keeps its own ids.

        Returns:
            The ids with the end-of-turn token, or None when the text smuggles in a control token.
        """
        text = self.thinking.wrap(thought, answer)
        markers = Counter(self._marker_ids)
        if self.thinking.prompt_opens:
            text = text.removeprefix(self.thinking.open)
            markers.pop(self.thinking.open_id, None)
            if self.thinking.prompt_tail.endswith("\n"):
                text = text.removeprefix("\n")
        token_ids = self.encode(text)
        sound = self._count_added(token_ids) == markers and not self._writes_a_turn(thought, answer)
        return (*token_ids, self.turn_end_id) if sound else None

    @cached_property
    def turn_end_id(self) -> int:
        """The stop token that the template writes after an assistant turn, else the first one known."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], tokenize=False
        )
        for index in reversed(self.encode(text)):
            if index in self.stop_token_ids:
                return index
        return self.stop_token_ids[0]
