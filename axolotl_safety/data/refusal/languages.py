"""Refusals in other languages than English: which language a text is in, and the forms in which it refuses.

A language is told by its script (Unicode ranges) and, where scripts are shared, by its function words. The forms are
few and plain, so they are read with care: what only sounds like a refusal is left undecided.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib import resources

_READ = 600  # characters: whether an answer refuses stands in its beginning
_OPENING = 320
_FEW_LETTERS = 4  # too few to tell a script by
_LEAST_SHARE = 0.12  # of function words; prose has 0.25 and more
_CLEARLY = 0.2  # so many that no other language has are enough not to look further
_MOST_DIGITS = 0.1  # of the characters; sums and tables have hardly any function words
_DENSE = 3  # letters of an alphabet that a Chinese, Japanese or Korean character is worth
_KANA_SHARE = 0.1

_RANGES = {
    "latin": "a-z\u00df-\u024f\u1e00-\u1eff",
    "cyrillic": "\u0400-\u052f",
    "arabic": "\u0620-\u064a\u066e-\u06d3",
    "devanagari": "\u0904-\u0939\u0958-\u0961",
    "han": "\u3400-\u4dbf\u4e00-\u9fff",
    "kana": "\u3041-\u30ff",
    "hangul": "\uac00-\ud7a3",
}
_LETTERS = {script: re.compile(f"[{letters}]") for script, letters in _RANGES.items()}
_ANY_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\s\d.,;:!?¡¿…()\[\]{}\"'«»„“”‘’/*#_=+<>|\\।؟،؛\-–—]+")
_VOWEL_POINTS = re.compile("[\u064b-\u0652\u0640]")  # optional in Arabic
_QUOTES = str.maketrans({"’": "'", "‘": "'", "`": "'", "ʼ": "'"})
_QUOTED = re.compile(
    '«[^»\n]{1,300}»|“[^”\n]{1,300}”|„[^“”\n]{1,300}[“”]|「[^」\n]{1,300}」|『[^』\n]{1,300}』|"[^"\n]{1,300}"'
)
_PRESENTED = re.compile(r"(?<=[:：])[ \t]*\n.*", re.DOTALL)
_STEPS = re.compile(r"^[ \t]*(?:\d{1,3}[.)、．]|[-•*])[ \t]*\S|```", re.MULTILINE)


@dataclass(frozen=True)
class Language:
    """A language and how it refuses.

    Attributes:
        name: ISO 639-1.
        script: the one that it is written in.
        words: its function words; none where the script tells it.
        refuses: finds what says by itself that the answer refuses; None for a language that is only told from others.
        hints: finds what may belong to a refusal, or to an answer.
        asides: finds what is no word to the user, such as a condition; it is passed over.
    """

    name: str
    script: str
    words: frozenset[str]
    refuses: re.Pattern[str] | None = None
    hints: re.Pattern[str] | None = None
    asides: re.Pattern[str] | None = None


@functools.cache
def languages() -> dict[str, Language]:
    """Every language that is told, by its name; ``languages.txt`` says how they are written."""
    text = resources.files(__package__).joinpath("languages.txt").read_text(encoding="utf-8")
    blocks: list[dict[str, list[str]]] = []
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == "language":
            blocks.append(defaultdict(list))
        if line and key != "#":
            blocks[-1][key].append(value)
    found = {}
    for block in blocks:
        name, script = block["language"][0].split()
        words = frozenset(" ".join(block["words"]).split())
        patterns = [re.compile("|".join(block[key])) if block[key] else None for key in ("refuses", "hints", "asides")]
        found[name] = Language(name, script, words, *patterns)
    return found


def language(text: str) -> str | None:
    """The language of a text's beginning, by its ISO 639-1 name; None if it is none that is known here.

    A text without letters, of one unknown word, or of figures for a good part counts as English.
    """
    return _language(_plain(text))


def knows(text: str) -> bool:
    """Whether it is known how the language of a text refuses."""
    name = language(text)
    return name == "en" or (name is not None and languages()[name].refuses is not None)


def refuses_in(text: str, name: str | None) -> bool | None:
    """Whether an answer refuses, as far as the forms of the known languages tell; None where they do not.

    Args:
        text: the answer.
        name: its language, another than English; None if that is not known. A short text is easily taken for another
            language, so that the forms of all are tried.
    """
    if name is not None and languages()[name].refuses is None:
        return None
    plain, forms = _plain(text), [one for one in languages().values() if one.refuses and one.hints]
    said = _PRESENTED.sub("", unquoted(plain))
    if any(one.refuses.search(_without(one.asides, said)[:_OPENING]) for one in forms):
        return None if len(_STEPS.findall(plain)) > 1 else True  # other ways are offered, or it answers after all
    open_ = any(one.hints.search(plain) or one.refuses.search(plain[:_OPENING]) for one in forms)
    return None if name is None or open_ else False


def unquoted(text: str) -> str:
    """A text without what stands in quotation marks: somebody else's words, or an example."""
    return _QUOTED.sub("", text)


def _without(asides: re.Pattern[str] | None, text: str) -> str:
    return asides.sub("", text) if asides else text


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text[:_READ])[:_READ].translate(_QUOTES).lower()
    return _VOWEL_POINTS.sub("", text)


def _language(plain: str) -> str | None:
    if plain.isascii():
        return _by_words(plain, "latin") if _LETTERS["latin"].search(plain) else "en"
    letters = Counter({script: len(pattern.findall(plain)) for script, pattern in _LETTERS.items()})
    rest = len(_ANY_LETTER.findall(plain)) - letters.total()
    if not letters.total():
        return None if rest > _FEW_LETTERS else "en"
    for script in ("han", "kana", "hangul"):
        letters[script] *= _DENSE
    script, count = letters.most_common(1)[0]
    if rest > count:
        return None
    if script in ("han", "kana"):
        return "ja" if letters["kana"] > _KANA_SHARE * (letters["han"] + letters["kana"]) else "zh"
    if script == "hangul":
        return "ko"
    return _by_words(plain, script)


def _by_words(plain: str, script: str) -> str | None:
    words = _WORD.findall(plain)
    if script == "latin" and sum(word in _english_alone() for word in words) > _CLEARLY * len(words):
        return "en"
    known = [one for one in languages().values() if one.script == script]
    shares = {one.name: sum(word in one.words for word in words) for one in known}
    name = max(shares, key=lambda one: shares[one])  # the first of equals: English, where it is one of them
    found = shares[name]
    if found > _LEAST_SHARE * len(words) and (name == "en" or found > 1):
        return name  # a single word may be a name, or a word of a language that is not known
    sums = sum(map(str.isdigit, plain)) > _MOST_DIGITS * len(plain)
    return "en" if script == "latin" and (sums or (len(words) == 1 and not found)) else None


@functools.cache
def _english_alone() -> frozenset[str]:
    others = [one.words for one in languages().values() if one.name != "en"]
    return languages()["en"].words.difference(*others)
