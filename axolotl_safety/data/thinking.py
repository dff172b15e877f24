"""How model families mark their thoughts: the table of thinkers, and what a tokenizer and template make of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from axolotl_safety.config import ThinkConfig
from axolotl_safety.util.errors import ModelError

OPEN, CLOSE = "<think>", "</think>"
_TOKEN = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")


@dataclass(frozen=True)
class Markers:
    """A family's marks around a thought.

    Attributes:
        sign: text in a chat template that gives them away.
        frame: a whole response, of ``{open}``, ``{thought}``, ``{close}`` and ``{answer}``.
        silent: what stands before an answer without a thought, where that is not nothing.
    """

    open: str
    close: str
    sign: str
    frame: str = "{open}\n{thought}\n{close}\n\n{answer}"
    silent: str = ""

    @property
    def tokens(self) -> frozenset[str]:
        """The tokens that they are made of."""
        return frozenset(_TOKEN.findall(self.open + self.close))


# The first that fits is taken.
MARKERS: tuple[Markers, ...] = (
    Markers(OPEN, CLOSE, CLOSE),
    # Harmony (github.com/openai/harmony, docs/format.md): the thought is a message of its own, on the analysis channel.
    Markers(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|channel|>analysis",
        "{open}{thought}{close}{answer}",
        "<|channel|>final<|message|>",
    ),
    # Gemma 4, by its chat template.
    Markers("<|channel>thought", "<channel|>", "<channel|>", "{open}\n{thought}\n{close}{answer}"),
)


def split_response(text: str, open_marker: str = OPEN, close_marker: str = CLOSE) -> tuple[str, str]:
    """Split a response, with or without the opening marker (R1-Distill's prompt holds it), into thought and answer.

    Returns:
        ``(thinking, answer)``, both without the blank space around the markers. A thought that was opened and
        never closed gives ``(thought, "")``; a text without markers gives ``("", text)``.
    """
    head, closed, tail = text.partition(close_marker)
    opened = head.lstrip().startswith(open_marker)
    if opened:
        head = head.lstrip()[len(open_marker) :]
    if closed:
        return head.strip(), tail.strip()
    return (head.strip(), "") if opened else ("", text.strip())


@dataclass(frozen=True)
class Thinking:
    """How this model marks its thoughts.

    Attributes:
        open_tokens: ids of the added tokens in the opening marker; empty where it is plain text.
        close_ids: ids of the closing marker where it begins and ends with an added token, so that no text beside it
            changes them; empty where it is plain text.
        prompt_opens: the generation prompt already ends in the opening marker (R1-Distill).
        prompt_tail: the text of the generation prompt from the opening marker on (empty if it does not open).
        inline: the markers may stand inside a message: each is plain text or one token of its own, and none of a turn.
    """

    markers: Markers
    open_tokens: tuple[int, ...]
    close_ids: tuple[int, ...]
    prompt_opens: bool
    prompt_tail: str
    inline: bool = True

    @property
    def open(self) -> str:
        """Text of the opening marker."""
        return self.markers.open

    @property
    def close(self) -> str:
        """Text of the closing marker."""
        return self.markers.close

    def wrap(self, thought: str, answer: str) -> str:
        """A full response as text, markers included."""
        parts = {"open": self.open, "thought": thought, "close": self.close, "answer": answer}
        return self.markers.frame.format(**parts)

    def shown(self, thought: str, answer: str) -> str:
        """A full response inside a message: markers that would end the message's own turn are ``<think>`` there."""
        return (
            self.wrap(thought, answer)
            if self.inline
            else MARKERS[0].frame.format(open=OPEN, thought=thought, close=CLOSE, answer=answer)
        )

    def read(self, thought: str, answer: str) -> tuple[str, str]:
        """Thought and answer of a source row that was read by ``<think>``, in whose answer our own markers may be.

        The closing one alone counts if it is a tag or the generation prompt opens: ``]]`` may be part of an answer.
        """
        if thought or (self.open, self.close) == (OPEN, CLOSE):
            return thought, answer
        opened = self.prompt_opens or self.markers.tokens or answer.lstrip().startswith(self.open)
        return split_response(answer, self.open, self.close) if opened else (thought, answer)


def known_markers(template: str, added: Collection[str]) -> Markers | None:
    """The table's markers that a chat template names, or else those whose tokens the tokenizer has."""
    named = (markers for markers in MARKERS if markers.sign in template)
    owned = (markers for markers in MARKERS if markers.tokens <= set(added))
    return next(named, None) or next(owned, None)


def chosen_markers(name: str, template: str, added: Collection[str], think: ThinkConfig | None) -> Markers:
    """The markers that the user names, or those that template or tokenizer give away.

    Raises:
        ModelError: none are known.
    """
    if think is not None and think.markers is not None:
        open_marker, close_marker = think.markers
        known = (markers for markers in MARKERS if (markers.open, markers.close) == think.markers)
        return next(known, Markers(open_marker, close_marker, close_marker))
    found = known_markers(template, added)
    if found is None:
        raise ModelError(
            f"{name!r} does not look like a reasoning model: neither its chat template nor its added tokens know "
            f"{CLOSE!r} or other think markers. Use a reasoning model, or name its markers under "
            "safety.think: {open: ..., close: ...}."
        )
    return found


def find_thinking(
    name: str,
    markers: Markers,
    prompt: Callable[..., str],
    values: Mapping[str, object],
    added: Mapping[str, int],
    encode: Callable[[str], list[int]],
) -> Thinking:
    """What the generation prompt does with the markers, and their ids.

    Args:
        name: the model's, for messages.
        markers: the model's.
        prompt: what stands behind the user's message in the generation prompt, by further values for the template.
        values: what the template is given already.
        added: the tokenizer's added tokens that are no text.
        encode: ids of a text.

    Raises:
        ModelError: the generation prompt closes the thought; with the value that would open it, if one is found.
    """
    text = prompt()
    at = text.rfind(markers.open)
    prompt_opens = at >= 0 and not text[at + len(markers.open) :].strip()
    if _closes(text, markers):
        said = f" with chat_template_kwargs {dict(values)}" if values else ""
        raise ModelError(
            f"the generation prompt of {name!r} closes the thought before the model writes a token{said}: "
            f"{text[max(at, 0) :]!r}. Use the model's thinking mode: {_way_to_think(markers, prompt)}"
        )
    close_ids = tuple(encode(markers.close))
    known = set(added.values())
    whole = bool(close_ids) and {close_ids[0], close_ids[-1]} <= known
    return Thinking(
        markers,
        tuple(filter(known.__contains__, encode(markers.open))),
        close_ids if whole else (),
        prompt_opens,
        text[at:] if prompt_opens else "",
        all(word in added or known.isdisjoint(encode(word)) for word in (markers.open, markers.close)),
    )


# What templates call the switch: Qwen3, SmolLM3, EXAONE 4 and Gemma 4; then DeepSeek V3.1 and Granite.
SWITCHES = ({"enable_thinking": True}, {"thinking": True})


def _closes(text: str, markers: Markers) -> bool:
    return markers.close in text[max(text.rfind(markers.open), 0) :]


def _way_to_think(markers: Markers, prompt: Callable[..., str]) -> str:
    for switch in SWITCHES:
        try:
            opened = not _closes(prompt(**switch), markers)
        except Exception:  # a template is a program, and raises what it likes
            continue
        if opened:
            return _set(switch)
    return "its card says which chat_template_kwargs turn it on, such as {enable_thinking: true}; set them in the YAML."


def _set(switch: Mapping[str, object]) -> str:
    (name,) = switch
    return (
        f"set chat_template_kwargs: {{{name}: true}} in the YAML, at its top level or under safety.think, and use the "
        "tuned model with it too."
    )


def unused_switch(values: Mapping[str, object], render: Callable[..., str]) -> str:
    """What to set where a template writes another prompt once it is told to think; empty if it does not."""
    turns = [{"role": "user", "content": "x"}]
    plain = render(turns)
    for switch in SWITCHES:
        if switch.keys() & values.keys():
            continue
        try:
            if render(turns, **switch) != plain:
                return _set(switch)
        except Exception:  # as above
            continue
    return ""
