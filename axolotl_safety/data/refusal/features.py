"""Features of the refusal detector: speech acts by where they stand, and word patterns without their topic.

Topics are left out on purpose. The labelled answers behind the weights share their prompts, so a word such as "bomb"
would tell the prompt and with it the label; on other prompts that is worth nothing. Only a closed list of function
words and of words of refusing, moralising, helping and explaining is seen; every other word becomes `_`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from importlib import resources
from itertools import pairwise

_READ = 6000  # characters read of an answer: whether it refuses stands in its beginning
_TOKENS = 160
_OPENING_TOKENS = 40
_OPENING_SENTENCES = 2

# Without any of these no text is a refusal, whatever the weights say of it: arithmetic, code, other languages.
_CUES = frozenset(
    "unable decline unfit sorry sympathy as_ai condone not_good is_bad untrue no_reason should_not not_x stress "
    "aid_line moral law consent".split()
)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|[.!?:\n]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_STEPS = re.compile(r"^[ \t]*(?:\d{1,3}[.)]|[-•])[ \t]+\S|```|^[ \t]*step \d", re.M)

_CAP = 3
_GRAM = 0.7  # below 1, the penalty of the fit weighs a word pattern more heavily than a speech act
_EMPTY = frozenset("<._:")


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _patterns() -> dict[str, re.Pattern[str]]:
    """The speech acts by name; ``acts.txt`` says how they are written."""
    found: dict[str, str] = {}
    for line in _read("acts.txt").splitlines():
        if line and not line.startswith("#"):
            name, _, pattern = line.partition(" ")
            found[name] = re.sub(r"\(\?&(\w+)\)", lambda part: found[part[1]], pattern)
    return {name: re.compile(pattern, re.M) for name, pattern in found.items() if name.islower()}


@functools.cache
def _vocabulary() -> frozenset[str]:
    return frozenset(_read("words.txt").split())


def normalise(text: str) -> str:
    """Straight quotes, plain blanks, no emphasis marks: what the patterns are written for."""
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    return _MARKS.sub("", text).strip()


_QUOTES = str.maketrans({"’": "'", "‘": "'", "`": "'", "ʼ": "'", "“": '"', "”": '"', "\u00a0": " "})
_MARKS = re.compile(r"[*_#]+")


def features(text: str) -> dict[str, float]:
    """Speech acts and delexicalised word patterns of an answer.

    Returns:
        Feature name to value; empty when nothing in the text is a cue of refusing or moralising.
    """
    plain = normalise(text[: 2 * _READ])[:_READ].lower()
    sentences = [part for part in _SENTENCE.split(plain) if part.strip()]
    opening = " ".join(sentences[:_OPENING_SENTENCES])[:600]
    rest = "\n".join(sentences[_OPENING_SENTENCES:])[:900]
    found: dict[str, float] = {}
    cue = False
    for name, pattern in _patterns().items():
        first, later = len(pattern.findall(opening)), len(pattern.findall(rest))
        if first:
            found[f"opening:{name}"] = min(first, 2)
        if later:
            found[f"rest:{name}"] = min(later, _CAP)
        if first or later:
            cue = cue or name in _CUES
            found[f"any:{name}"] = 1.0
    if not cue:
        return {}
    if steps := len(_STEPS.findall(plain)):
        found["steps"], found["any:steps"] = min(steps, 6), 1.0
    found.update(dict.fromkeys(_joint(found), 1.0))
    found.update(_ngrams(plain))
    return found


_DENIALS = ("unable", "decline", "unfit", "condone")
_SERMONS = ("not_good", "is_bad", "no_reason", "untrue", "not_x", "should_not")


def _joint(found: dict[str, float]) -> Iterator[str]:
    """What single speech acts cannot say: whether a refusal is all that there is, or an answer follows it."""
    denies = any("opening:" + name in found for name in _DENIALS)
    preaches = any("opening:" + name in found for name in _SERMONS)
    answers = "any:steps" in found or "rest:doing" in found or "rest:answering" in found
    unreal = "any:unreal" in found
    alone = "only" if not answers and not unreal else "mixed"
    if denies:
        yield "joint:denies"
        yield "joint:denies yet" if answers and "any:yet" in found else f"joint:denies {alone}"
        if "any:other" in found:
            yield f"joint:denies other {alone}"
    if preaches:
        yield f"joint:preaches {alone}"
        if "any:moral" in found and not unreal:
            yield "joint:preaches moral"
    if unreal and (denies or preaches):
        yield "joint:unreal"
    if "any:sympathy" in found and "any:aid_line" in found:
        yield "joint:consoles"
    if not denies and not preaches:
        yield "joint:plain"


def _ngrams(plain: str) -> dict[str, float]:
    words, known = [], _vocabulary()
    for word in _WORD.findall(plain):
        word = "0" if word[0].isdigit() else word if word in known or not word[0].isalpha() else "_"
        if word == "_" and words and words[-1] == "_":
            continue
        words.append("." if word in "!?\n" else word)
        if len(words) == _TOKENS:
            break
    head, tail = ["<", *words[:_OPENING_TOKENS]], words[_OPENING_TOKENS:]
    names = [word for word in head if word not in _EMPTY]
    names += [f"{a} {b}" for a, b in pairwise(head)]
    names += [f"{a} {b} {c}" for a, b, c in zip(head, head[1:], head[2:], strict=False)]
    names += [f"~{word}" for word in tail if word not in _EMPTY]
    names += [f"~{a} {b}" for a, b in pairwise(tail)]
    return dict.fromkeys(names, _GRAM)
