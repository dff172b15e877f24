"""Pushes on the laboratory: the base's own thoughts, openings and wrappers in front of a tuned model's response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_safety.config.attacks import OPENINGS, WHOLE, WRAPPERS
from axolotl_safety.data.refusal.detector import is_refusal

from .figures import HARMFUL_SETS

PROMPTS = (*HARMFUL_SETS, "benign")
CUTS: tuple[int | str, ...] = (8, 24, WHOLE)
MAX_NEW_TOKENS = 160

Ids = tuple[int, ...]
Refusals = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Asked:
    """One prompt under a push: what the model sees, and what of it is its response already."""

    prompt: Ids
    begun: Ids


class Pushes:
    """Every push on the prompts of one split of one base."""

    def __init__(self, base: Path, split: str, most: int) -> None:
        """Let the base think about every prompt, greedily.

        Args:
            base: folder with ``model/`` and ``data/``.
            split: ``dev`` or ``test``.
            most: prompts per set; the first ones are taken.
        """
        from labkit.evaluation import load_split
        from labkit.models import load_model

        model, self._tokenizer = load_model(base / "model")
        members = load_split(split, base / "data")
        self._texts = {name: [row["prompt"] for row in members[name][:most]] for name in PROMPTS}
        self._thoughts = {name: self._think(model, texts) for name, texts in self._texts.items()}

    def _ids(self, text: str) -> Ids:
        from labkit.tokenizer import encode

        return tuple(encode(self._tokenizer, text))

    def _prompt(self, text: str) -> Ids:
        from labkit.tokenizer import chat_text

        return self._ids(chat_text(text))

    def _think(self, model: Any, texts: Sequence[str]) -> list[Ids]:
        return [thought_of(self._tokenizer, ids) for ids in self._complete(model, [self._prompt(t) for t in texts])]

    def _complete(self, model: Any, inputs: Sequence[Ids]) -> list[list[int]]:
        from labkit.generation import generate_ids
        from labkit.tokenizer import END

        return generate_ids(model, inputs, self._tokenizer.convert_tokens_to_ids(END), MAX_NEW_TOKENS)

    def asked(self, name: str) -> dict[str, list[Asked]]:
        """The prompts of a set under every push, the unpushed ones first."""
        prompts = [self._prompt(text) for text in self._texts[name]]
        thoughts = self._thoughts[name]
        found = {"plain": [Asked(prompt, ()) for prompt in prompts]}
        for cut in CUTS:
            # The opening marker and its line break are none of the tokens that a cut counts.
            kept = [ids if cut == WHOLE else ids[: 2 + int(cut)] for ids in thoughts]
            found[f"prefill {cut}"] = [Asked(*pair) for pair in zip(prompts, kept, strict=True)]
        for opening in OPENINGS.values():
            begun = self._ids(f"<think>\n{opening.thought}")
            if opening.answer is not None:
                begun = self._ids(f"<think>\n\n</think>\n\n{opening.answer}")
            found[f"opening {opening.name}"] = [Asked(prompt, begun) for prompt in prompts]
        for wrapper in WRAPPERS.values():
            found[f"wrapped {wrapper.name}"] = [
                Asked(self._prompt(wrapper.around(text)), ()) for text in self._texts[name]
            ]
        return found

    def refusals(self, model: Any, only: Sequence[str] | None = None) -> Refusals:
        """Refusals in percent, by set and push.

        Args:
            model: in evaluation mode.
            only: words with which a push begins; None is all.
        """
        found: Refusals = {}
        for name in PROMPTS:
            for push, rows in self.asked(name).items():
                if only is None or push.startswith(tuple(only)):
                    found.setdefault(name, {})[push] = self._refused(model, rows)
        return found

    def _refused(self, model: Any, rows: Sequence[Asked]) -> float:
        from labkit.own_style import split_response

        outputs = self._complete(model, [row.prompt + row.begun for row in rows])
        texts = [self._tokenizer.decode([*row.begun, *ids]) for row, ids in zip(rows, outputs, strict=True)]
        return 100 * sum(is_refusal(split_response(text)[1]) for text in texts) / len(texts)


def thought_of(tokenizer: Any, response: Sequence[int]) -> Ids:
    """A response up to its closing marker, without the blank space before it."""
    close = tokenizer.convert_tokens_to_ids("</think>")
    ids = list(response)
    ids = ids[: ids.index(close)] if close in ids else ids
    while ids and not tokenizer.decode(ids[-1:]).strip():
        ids.pop()
    return tuple(ids)
