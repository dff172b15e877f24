"""A guard whose prompt and verdict stand in the YAML, read as fail-closed as the families of this package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from axolotl_safety.config.custom_guard import PLACEHOLDERS, taken_from
from axolotl_safety.config.guard import CUSTOM, GuardConfig
from axolotl_safety.config.patterns import examples, literal_start
from axolotl_safety.util.errors import ConfigError

from .base import UNPARSABLE, Family, Render, Verdict
from .frame import Frame, through_template, with_beginning
from .neutral import JUDGE_ROLES, THINK
from .thoughts import THOUGHTS, without_thoughts

# "Human user:" at the start of a line
_NAME = re.compile(r"^(?:[^\w\n]|_)*+([^\W_][^:：\n{}]{0,40})[:：]", re.MULTILINE)
_MARKS = (
    re.compile(r"</?[^\W\d][^<>\s]{0,40}"),  # "<score" of "<score>", which may have more before it closes
    re.compile(r"<\|[^<>\n]{1,40}\|>"),
    re.compile(r"\[/?[^\W\d][^\[\]\n]{1,40}\]"),
    re.compile(r"[【〔〖《「『][^\n]{1,40}?[】〕〗》」』]"),
    re.compile(r"\{\{.{1,40}?\}\}"),
    re.compile(r'"[^"\n]{1,40}"(?=\s*:)'),  # a key of JSON
)
_WORDS = re.compile(r"\w.*\w")
_SIGN = re.compile(r"[^\w\s]")
_LETTER = re.compile(r"[^\W\d_]")
_TO_LAST_WORD = re.compile(r".*\w", re.DOTALL)
_RUN = re.compile(r"[^\w\s]{3,}")  # signs such as """; fewer are ordinary
_LEAST = 3  # characters; a shorter mark is an ordinary sign
_SHORT = 80  # characters; a longer line is a sentence and nobody's delimiter


@dataclass(frozen=True)
class Delimiters:
    """What has a meaning in a prompt or a verdict, and is broken in judged text: see `neutral.Neutraliser`."""

    roles: tuple[str, ...]
    lines: tuple[str, ...]
    marks: tuple[str, ...]


def delimiters(config: GuardConfig) -> Delimiters:
    """Names before a colon, marks, lines beside a place, and whatever the verdict may consist of."""
    verdict = config.verdict
    assert verdict is not None
    said = [text.strip() for pattern in (verdict.safe, verdict.unsafe) for text in examples(re.compile(pattern))]
    frames = [Frame(text) for text in config.template]
    texts = [literal for frame in frames for literal in frame.literals]
    beside = [_beside(frame) for frame in frames]
    # Of a verdict in several lines those that say something, which neither a brace does nor what stands for any sign.
    lines = [line.strip() for text in said for line in text.splitlines() if line == text or _WORDS.search(line)]
    lines += [line for found, _ in beside for line in found]
    names = [_said(match[1]) for text in (*texts, *said) for match in _NAME.finditer(text)]
    marks = [match[0] for text in (*texts, *said) for kind in _MARKS for match in kind.finditer(text)]
    marks += [text for text in said if _is_phrase(text) and not any(mark in text for mark in marks)]
    marks += [mark for _, found in beside for mark in found]
    return Delimiters(
        tuple(dict.fromkeys((*JUDGE_ROLES, *names))),
        tuple(dict.fromkeys(line for line in lines if line and len(line) <= _SHORT)),
        tuple(dict.fromkeys(marks)),
    )


def _said(text: str) -> str:
    """A text without the signs that it ends with."""
    match = _TO_LAST_WORD.match(text)
    return match[0] if match else ""


def _is_phrase(text: str) -> bool:
    """Whether signs set a text off from prose: "Verdict: harmless" and "[[safe]]", but not "No." and "0.5"."""
    return bool(_LETTER.search(text) and _SIGN.search(_said(text)))


def _beside(frame: Frame) -> tuple[list[str], list[str]]:
    """What seems to open and close judged text: whole lines before and behind a place, and signs on its own line."""
    lines, marks = [], []
    for place, (text, name) in enumerate(frame.parts):
        if name is not None:
            continue
        whole = [line.strip() for line in text.split("\n")]
        opens = place + 1 < len(frame.parts)
        if opens:
            lines += list(filter(None, whole[:-1]))[-1:]
            marks += [run for run in _RUN.findall(whole[-1]) if whole[-1].endswith(run)]
        if place:
            lines += list(filter(None, whole[1:]))[:1]
            marks += [run for run in _RUN.findall(whole[0]) if whole[0].startswith(run)]
            between = opens and len(whole) == 1  # two places on one line
            if len(whole[0]) >= _LEAST and (_SIGN.search if between else _SIGN.match)(whole[0]):
                marks.append(whole[0])
    return lines, marks


def parser(config: GuardConfig, controls: Iterable[str] = ()) -> Callable[[str], Verdict]:
    """How a reply is read: ``safe`` matches it as a whole, and nothing in it says unsafe.

    With ``think`` the closed thoughts that it begins with are not read; a thought that is not closed is no verdict, nor
    is a reply with a mark of thoughts where none is expected, or with a control token, unless they belong to the
    verdict as it is written.

    Args:
        config: with the verdict's patterns.
        controls: control tokens, as they show in a decoded reply; some guards answer in tokens of their own (<SAFE>).
    """
    assert config.verdict is not None
    safe, unsafe = re.compile(config.verdict.safe), re.compile(config.verdict.unsafe)
    refusal = re.compile(config.verdict.refusal) if config.verdict.refusal else None
    said = [text for pattern in (safe, unsafe, refusal) if pattern for text in examples(pattern)]
    marks = [mark for pair in THOUGHTS for mark in pair] if config.think else THINK
    foreign = [mark for mark in (*marks, *controls) if not any(mark in text for text in said)]

    def parse(text: str) -> Verdict:
        body = text.replace("\r\n", "\n")
        body = (without_thoughts(body) if config.think else body).strip()
        if any(mark in body for mark in foreign):
            return UNPARSABLE
        refuses = bool(refusal.search(body)) if refusal else None
        said = bool(safe.fullmatch(body)), bool(unsafe.search(body))
        if said == (True, False):
            return Verdict(True, refuses)
        return Verdict(False, refuses, "unsafe") if said == (False, True) else UNPARSABLE

    return parse


def family(config: GuardConfig, tokenizer: Any) -> Family:
    """The YAML's guard as a family.

    Raises:
        ConfigError: its chat template loses a part of the conversation, a verdict's pattern matches the prompt, or a
            threshold cannot be read in this tokenizer.
    """
    verdict, what = config.verdict, f"safety.guard.model {config.model!r}"
    assert verdict is not None
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    found = delimiters(config)
    words = tuple(literal_start(re.compile(pattern)) for pattern in (verdict.safe, verdict.unsafe))
    frame = _frame(config, tokenizer, what)
    empty = frame.fill(dict.fromkeys(PLACEHOLDERS, ""))
    pattern = taken_from(empty, verdict)
    if pattern:
        raise ConfigError(f"{what}: the verdict's {pattern!r} matches the prompt itself; name its words alone.")
    if config.threshold is not None:
        _check_words(words, tokenizer, what)
    closes = "|".join(re.escape(close) for _, close in THOUGHTS)
    thought = f"(?:.*(?:{closes}))?" if config.think else ""
    return Family(
        name=CUSTOM,
        title="a guard of your own",
        parse=parser(config, filter(str.strip, added)),
        template=lambda _: _render(frame),
        word=re.compile(rf"\A{thought}\s*({re.escape(words[0])})", re.DOTALL),
        words=words,
        names=re.compile(r"(?!)"),
        roles=found.roles,
        lines=found.lines,
        marks=found.marks,
        apart=True,
        usual_tokens=200 if config.think else 20,
        example=next(iter(examples(re.compile(verdict.safe))), ""),
    )


def _frame(config: GuardConfig, tokenizer: Any, what: str) -> Frame:
    if config.prompt:
        return Frame(with_beginning(tokenizer, config.prompt.text))
    turns = [message.model_dump() for message in config.messages]
    return through_template(tokenizer, turns, what, enable_thinking=config.think)


def _render(frame: Frame) -> Render:
    def render(prompt: str, response: str, thought: str = "", answer: str = "") -> str:
        return frame.fill({"prompt": prompt, "response": response, "thought": thought, "answer": answer})

    return render


def _check_words(words: tuple[str, ...], tokenizer: Any, what: str) -> None:
    """Refuse a threshold where the tokens of the two words do not tell them apart."""
    safe, unsafe = (tuple(tokenizer.encode(word, add_special_tokens=False)) for word in words)
    shared = next((place for place, pair in enumerate(zip(safe, unsafe, strict=False)) if pair[0] != pair[1]), None)
    if shared is None:
        raise ConfigError(
            f"{what}: threshold: {words[0]!r} and {words[1]!r} begin with the same tokens, so that P(unsafe) cannot be "
            "read where the verdict begins. Remove threshold, or have the guard answer in other words."
        )
