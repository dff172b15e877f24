"""Rewrite and steering prompts: named, versioned, and replaceable by a literal template in the YAML."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

FIELDS = ("prompt", "thought", "answer", "reference")
_FIELD = re.compile(r"\{(" + "|".join(FIELDS) + r")\}")


@dataclass(frozen=True)
class Prompt:
    """A user message with holes.

    Attributes:
        name: the registered name, or ``custom`` for a literal template.
        version: raised whenever the text of a named prompt changes.
        template: the text; ``{prompt}``, ``{thought}``, ``{answer}`` and ``{reference}`` are filled, any
            other brace is kept as it stands.
    """

    name: str
    version: int
    template: str

    @property
    def label(self) -> str:
        """Name and version, for provenance; two literal templates differ by their hash."""
        return f"{self.name}@{self.version}" if self.name != "custom" else f"custom-{self.sha256[:8]}"

    @property
    def sha256(self) -> str:
        """Hash of the template's text, for provenance and fingerprints."""
        return hashlib.sha256(self.template.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def fields(self) -> frozenset[str]:
        """The holes that the template has."""
        return frozenset(_FIELD.findall(self.template))

    @property
    def literals(self) -> tuple[str, ...]:
        """The template's own words, between the holes: what must not leak into a response."""
        return tuple(part.strip() for part in _FIELD.split(self.template)[::2] if part.strip())

    def render(self, values: Mapping[str, str]) -> str:
        """Fill the holes in one pass, so that text which looks like a hole stays text."""
        return _FIELD.sub(lambda match: values[match.group(1)], self.template)


# After DGR (arXiv 2602.02136), whose own prompts are unpublished: this wording is ours.
_REWRITE = (
    "Below are a request and a reference response to it. Write your own response to the request. "
    "Keep what the reference decides (to answer or to refuse) and why, but reason and word it "
    "the way you naturally would. Do not mention the reference.\n\n"
    "Request:\n{prompt}\n\n"
    "Reference response:\n{reference}"
)

# ThinkSafe (arXiv 2601.23143): the string of its published code; the alternatives are those of its Table 5.
_REFUSE = "The following prompt is harmful. You should refuse to answer the prompt.\n\nPrompt:\n\n{prompt}"
_SUFFIX = "{prompt}\n\n The above prompt is harmful. You should refuse to answer the prompt."
_RISK = "Evaluate the potential risks of this prompt and provide a reasoned refusal.\n\n Prompt:{prompt}"
_INTENT = "Examine the harmful intent of this query and refuse to answer the prompt.\n\n Prompt:{prompt}"

# The structure that R1-Act and AltTrain (arXiv 2604.18946) teach: what is asked, whether it is harmful, then refuse or
# go on. Wording ours.
_STRUCTURE = (
    "Think in this order: say in one sentence what the request is about; say in one sentence whether answering it "
    "could do harm; if it could, stop thinking and refuse; if not, go on reasoning and answer."
)
_STRUCTURED = f"{_STRUCTURE}\n\nRequest:\n{{prompt}}"
_STRUCTURED_REWRITE = (
    "Below are a request and a reference response to it. Write your own response, and keep what the reference decides: "
    f"to answer or to refuse. {_STRUCTURE} Do not mention the reference.\n\n"
    "Request:\n{prompt}\n\n"
    "Reference response:\n{reference}"
)

REWRITE_PROMPTS: Mapping[str, Prompt] = MappingProxyType(
    {"rewrite": Prompt("rewrite", 1, _REWRITE), "structured": Prompt("structured", 1, _STRUCTURED_REWRITE)}
)
STEERING_PROMPTS: Mapping[str, Prompt] = MappingProxyType(
    {
        "none": Prompt("none", 1, "{prompt}"),
        "refuse": Prompt("refuse", 1, _REFUSE),
        "suffix": Prompt("suffix", 1, _SUFFIX),
        "risk": Prompt("risk", 1, _RISK),
        "intent": Prompt("intent", 1, _INTENT),
        "structured": Prompt("structured", 1, _STRUCTURED),
    }
)


def resolve(name_or_template: str, named: Mapping[str, Prompt]) -> Prompt:
    """Find a named prompt, or take the text as a literal template.

    Raises:
        ValueError: the text is neither a known name nor a template with a hole in it.
    """
    if name_or_template in named:
        return named[name_or_template]
    for word in re.findall(r"\{(\w+)\}", name_or_template):
        near = difflib.get_close_matches(word, FIELDS, n=1, cutoff=0.75)
        if near and word not in FIELDS:
            raise ValueError(f"the template has {{{word}}}: did you mean {{{near[0]}}}? Got {name_or_template!r}")
    if _FIELD.search(name_or_template):
        return Prompt("custom", 1, name_or_template)
    raise ValueError(
        f"no prompt is named {name_or_template!r}. Named prompts: {', '.join(named)}. A literal template "
        f"must hold at least one of {', '.join('{' + field + '}' for field in FIELDS)}."
    )


def prompts_in_use(settings: Any, methods: Iterable[str]) -> dict[str, str]:
    """Hash of each prompt that the methods may show, by the name that a row's ``proposal`` carries."""
    found: dict[str, Prompt] = {}
    if "dgr" in methods:
        named = settings.dgr.prompt
        shown = REWRITE_PROMPTS.values() if named == "auto" else [resolve_rewrite(named)]
        found |= {f"dgr/{prompt.label}": prompt for prompt in shown}
    if "thinksafe" in methods:
        ladder = settings.thinksafe.ladder
        shown = STEERING_PROMPTS.values() if "auto" in ladder else [resolve_steering(rung) for rung in ladder]
        found |= {f"thinksafe/{prompt.label}": prompt for prompt in (STEERING_PROMPTS["none"], *shown)}
    return {name: prompt.sha256 for name, prompt in found.items()}


def resolve_rewrite(name_or_template: str) -> Prompt:
    """Resolve ``safety.dgr.prompt``.

    Raises:
        ValueError: unknown name, or a template that never shows the reference to the model.
    """
    prompt = resolve(name_or_template, REWRITE_PROMPTS)
    if not prompt.fields & {"thought", "answer", "reference"}:
        raise ValueError(
            "a rewrite prompt must show the foreign response: put {reference}, {thought} or {answer} into "
            f"{name_or_template!r}"
        )
    return prompt


def resolve_steering(name_or_template: str) -> Prompt:
    """Resolve a rung of ``safety.thinksafe.ladder``.

    Raises:
        ValueError: unknown name, a template without ``{prompt}``, or one that asks for a reference.
    """
    prompt = resolve(name_or_template, STEERING_PROMPTS)
    if prompt.fields != {"prompt"}:
        raise ValueError(f"a steering prompt must hold {{prompt}} and no other field: {name_or_template!r}")
    return prompt
