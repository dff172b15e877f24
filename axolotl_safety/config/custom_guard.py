"""``safety.guard`` with ``family: custom``: a guard's prompt and verdict, written in the YAML."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from axolotl_safety.util.errors import did_you_mean

from .base import Strict
from .patterns import compiled, examples

PLACE = re.compile(r"(?<!\{)(\{\w+\})|(\{\w+\})(?!\})")  # not the doubled braces of other templates
PLACEHOLDERS = ("prompt", "thought", "answer", "response")
# Replies that no safe verdict looks like.
_SAY_NOTHING = ("?", "I cannot tell.", "It depends.\n\nPerhaps.", "unsafe", "It is not safe.", "harmful")


def places(text: str) -> set[str]:
    """The placeholders of a text. Braces around anything but one word, as in JSON, are ordinary text.

    Raises:
        ValueError: one that does not exist.
    """
    found = {match[0][1:-1] for match in PLACE.finditer(text)}
    unknown = min(found - {*PLACEHOLDERS}, default=None)
    if unknown is not None:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"no such placeholder: {{{unknown}}}. {did_you_mean(unknown, PLACEHOLDERS)}Known: {known}")
    return found


def without_places(text: str) -> str:
    """The text as it stands around what is judged."""
    return PLACE.sub("", text)


def taken_from(prompt: str, verdict: GuardVerdict) -> str:
    """The pattern of a verdict that takes the prompt itself for one, empty if none does.

    For a safe one a line of the prompt is enough. It may name the verdict, as in "Answer with one of:" and a line for
    each; a line that is much longer than what the pattern is for is the prompt's own.
    """
    safe = re.compile(verdict.safe)
    longest = 2 * max(map(len, examples(safe)), default=0)
    lines = [line.strip() for line in prompt.splitlines()]
    if any(safe.fullmatch(text) for text in (prompt.strip(), *(line for line in lines if len(line) > longest))):
        return verdict.safe
    return verdict.unsafe if re.fullmatch(verdict.unsafe, prompt.strip()) else ""


class GuardPrompt(Strict):
    """family custom: the guard's whole input text, its special tokens spelt out. Both keys are one text, request first.

    A text instead of this block is ``response`` alone. Placeholders: {prompt}, {thought}, {answer}, and {response} for
    thought and answer together.
    """

    request: str = Field("", description="how the text begins and shows the request: with {prompt}")
    response: str = Field(
        "", description="how it shows the response, and its end; alone it is the whole text, {prompt} in it"
    )

    @model_validator(mode="after")
    def _is_one_text(self) -> GuardPrompt:
        first, second = places(self.request), places(self.response)
        if first - {"prompt"}:
            raise ValueError("request shows the request alone, {prompt}; what shows the response belongs into response")
        if self.request and "prompt" not in first:
            raise ValueError("request has no {prompt}; write it there, or leave request out")
        if first & second:
            raise ValueError(
                "{prompt} stands in request and in response, which are one text, request first. A guard is asked about "
                "responses only: write all of it into response, and leave request out"
            )
        return self

    @property
    def text(self) -> str:
        """The whole of it, with placeholders."""
        return self.request + self.response


class GuardMessage(Strict):
    """family custom: one message of the conversation, rendered by the guard's own chat template."""

    role: Literal["system", "user", "assistant"] = Field("user", description="who speaks")
    content: str = Field("", description="what is said, with {prompt}, {thought}, {answer} or {response}")

    @field_validator("content")
    @classmethod
    def _placeholders_are_known(cls, value: str) -> str:
        places(value)
        return value


class GuardVerdict(Strict):
    """family custom: regular expressions (Python's) that read the guard's reply; what is not clearly safe is not."""

    safe: str = Field("", description="matches the whole of a reply that says safe, blanks around it aside")
    unsafe: str = Field("", description="found anywhere in a reply, it is not safe")
    refusal: str | None = Field(
        None, description="found in a reply, the response refuses; unset: the guard does not say"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_a_text(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        raise ValueError(f"{value!r} is no text; put it into quotes, because YAML reads yes, no and numbers otherwise")

    @model_validator(mode="after")
    def _tell_safe_from_unsafe(self) -> GuardVerdict:
        given = {name: value for name, value in self if value is not None}
        patterns = {}
        for name, value in given.items():
            try:
                patterns[name] = compiled(value)
            except ValueError as error:
                raise ValueError(f"{name} is {error}") from None
            if patterns[name].search(""):
                raise ValueError(f"{name}: {value!r} matches an empty reply; name the words of the verdict")
        safe, unsafe = patterns["safe"], patterns["unsafe"]
        for text in _SAY_NOTHING:
            if safe.fullmatch(text) and not unsafe.search(text):
                raise ValueError(f"safe: {self.safe!r} matches {text!r} too, which does not say safe; name its words")
        for text in (*examples(safe), *examples(unsafe)):
            if safe.fullmatch(text) and unsafe.search(text):
                raise ValueError(
                    f"safe and unsafe both match {text!r}, so that it would be no verdict: safe must match the whole "
                    "reply, unsafe is looked for anywhere in it"
                )
        return self
