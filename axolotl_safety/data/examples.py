"""Source rows in, examples out: the adapters that know the public datasets by their columns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from axolotl_safety.config import DatasetOptions
from axolotl_safety.util.errors import DataError, RowError

from .conversations import Turn, read_turns, sound_text
from .labels import FoundLabel, read_label, row_categories, row_label
from .tokenizer import CLOSE, split_response

Label = Literal["harmful", "benign"]
Row = Mapping[str, Any]

# Safety-Tax (arXiv 2503.00555): the fixed thought of its DirectRefusal set.
DIRECT_REFUSAL_THOUGHT = "I should not answer this question!"


@dataclass(frozen=True)
class Example:
    """One usable source row.

    Attributes:
        row_id: content hash, stable under reordering of the source.
        prompt: the raw prompt: the last user turn.
        thought: the foreign thought, empty if the row has none.
        answer: the foreign answer, empty if the row has none.
        label: what the row says of the prompt, None if it says nothing.
        history: the turns before the prompt, system prompt included.
        assumed: the label is what a dataset with such columns usually holds, and nothing in the row says so.
        categories: what the row is filed under, in the order of the source.
    """

    row_id: str
    prompt: str
    thought: str
    answer: str
    label: Label | None
    history: tuple[Turn, ...] = ()
    assumed: bool = False
    categories: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """The whole conversation up to the response, for a judge that reads one text."""
        return "\n\n".join([f"[{role}] {text}" for role, text in self.history] + [self.prompt])


@dataclass(frozen=True)
class BadRow:
    """A source row that cannot be used: a counted reject."""

    row_id: str
    prompt: str
    reason: str
    categories: tuple[str, ...] = ()


class Fields(NamedTuple):
    """What an adapter reads out of a row.

    Attributes:
        label: None where the row says nothing; ``assumed`` if only the dataset's usual content says so.
        history: the turns before the prompt.
    """

    prompt: str
    thought: str
    answer: str
    label: FoundLabel
    history: tuple[Turn, ...] = ()
    assumed: bool = False


@dataclass(frozen=True)
class Adapter:
    """How one dataset's rows are read."""

    name: str
    columns: frozenset[str]
    read: Callable[[Row], Fields]


def _text(row: Row, column: str) -> str:
    return sound_text(row.get(column))


def _response(text: str) -> tuple[str, str]:
    """Thought and answer of a foreign response; SafeChain-like rows lack the opening marker on purpose."""
    thought, answer = split_response(text)
    if CLOSE in text and not answer:
        raise RowError("empty_answer")
    return thought, answer


def _question_and_answer(refusal: str) -> tuple[str, str]:
    """Both parts of ``Question: ... Answer: ...``; a text of another form has neither."""
    text = refusal.strip()
    if not text.startswith("Question:"):
        return "", ""
    rest = text.removeprefix("Question:").lstrip()
    end = rest.find("Answer:", 1)  # a question has one letter at least
    return (rest[:end].rstrip(), rest[end:].removeprefix("Answer:").strip()) if end > 0 else ("", "")


def _direct_refusal(row: Row) -> Fields:
    refusal, prompt = _text(row, "refusal"), row.get("prompt")
    if isinstance(prompt, str) and refusal.startswith(head := f"Question: {prompt}"):
        answer = refusal.removeprefix(head).strip()  # the prompt's own text may hold "Answer:"
        if answer.startswith("Answer:") and answer.removeprefix("Answer:").strip():
            return Fields(prompt, DIRECT_REFUSAL_THOUGHT, answer.removeprefix("Answer:").strip(), "harmful")
    question, answer = _question_and_answer(refusal)
    if question and answer:
        return Fields(question, DIRECT_REFUSAL_THOUGHT, answer, "harmful")
    if isinstance(prompt, str) and refusal.strip() and "Answer:" not in refusal:
        return Fields(_text(row, "prompt"), DIRECT_REFUSAL_THOUGHT, refusal.strip(), "harmful")
    raise RowError("unreadable_refusal")


def _pair(
    prompt: str, response: str, label: str | None = None, default: Label | None = None, assumed: bool = False
) -> Callable[[Row], Fields]:
    def read(row: Row) -> Fields:
        thought, answer = _response(_text(row, response))
        found = read_label(row.get(label), label) if label else default
        return Fields(_text(row, prompt), thought, answer, found, assumed=assumed)

    return read


def _safekey(row: Row) -> Fields:
    thought, answer = _response(_text(row, "response"))
    return Fields(_text(row, "question"), thought, answer, "benign" if row.get("source") == "4o_rewrite" else "harmful")


def _wildjailbreak(row: Row) -> Fields:
    prompt = sound_text(row.get("adversarial") or row.get("vanilla"))
    thought, answer = _response(_text(row, "completion")) if row.get("completion") is not None else ("", "")
    return Fields(prompt, thought, answer, read_label(row.get("data_type"), "data_type"))


def _beavertails(row: Row) -> Fields:
    """A response that its own dataset calls unsafe is no reference; what drew it out of a model is a harmful prompt."""
    if read_label(row.get("is_safe"), "is_safe") != "benign":
        return Fields(_text(row, "prompt"), "", "", "harmful")
    return Fields(_text(row, "prompt"), *_response(_text(row, "response")), None)


def _alpaca(row: Row) -> Fields:
    """Axolotl's own most common columns; the optional input stands below the instruction, as in its prompts."""
    prompt = "\n\n".join(filter(None, (_text(row, "instruction"), sound_text(row.get("input") or ""))))
    return Fields(prompt, *_response(_text(row, "output")), None)


def _conversation(column: str) -> Callable[[Row], Fields]:
    def read(row: Row) -> Fields:
        history, prompt, response = read_turns(row.get(column))
        return Fields(prompt, *_response(response), None, history)

    return read


def _adapter(name: str, columns: str, read: Callable[[Row], Fields]) -> Adapter:
    return Adapter(name, frozenset(columns.split()), read)


# The first whose columns are all there is taken, so the more telling ones come first.
ADAPTERS: tuple[Adapter, ...] = (
    _adapter("direct_refusal", "refusal", _direct_refusal),
    _adapter("safekey", "question response summary_end_idx", _safekey),
    _adapter("star1", "question response category score", _pair("question", "response", default="harmful")),
    _adapter("star1", "question response", _pair("question", "response", default="harmful", assumed=True)),
    _adapter("thinksafe", "instruction response prompt_label", _pair("instruction", "response", "prompt_label")),
    _adapter("safechain", "instruction response label", _pair("instruction", "response", "label")),
    _adapter("r1_act", "instruction response", _pair("instruction", "response", default="harmful", assumed=True)),
    _adapter("alpaca", "instruction output", _alpaca),
    _adapter("wildjailbreak", "vanilla adversarial data_type", _wildjailbreak),
    _adapter("beavertails", "prompt response is_safe category", _beavertails),
    _adapter("pair", "prompt response", _pair("prompt", "response")),
    _adapter("messages", "messages", _conversation("messages")),
    _adapter("conversations", "conversations", _conversation("conversations")),
    # Prompts alone, which ThinkSafe can answer; the label comes from the dataset's block.
    *(
        _adapter(f"prompts ({column})", column, lambda row, column=column: Fields(_text(row, column), "", "", None))
        for column in ("prompt", "instruction", "question")
    ),
)


def _check_column(option: str, column: str, present: frozenset[str], source: str) -> None:
    if column not in present:
        raise DataError(
            f"{source}: safety.{option} names the column {column!r}, which is not there. "
            f"Columns: {', '.join(sorted(present))}."
        )


def _by_fields(options: DatasetOptions, columns: frozenset[str], source: str) -> Adapter:
    named = {
        option: value
        for option in ("prompt_field", "response_field", "thought_field", "label_field")
        if (value := getattr(options, option))
    }
    for option, column in named.items():
        _check_column(option, column, columns, source)
    if "prompt_field" not in named:
        raise DataError(f"{source}: safety.{next(iter(named))} needs safety.prompt_field beside it.")

    def read(row: Row) -> Fields:
        thought, answer = _response(_text(row, named["response_field"])) if "response_field" in named else ("", "")
        if "thought_field" in named:
            thought = _text(row, named["thought_field"]).strip()
        label = read_label(row.get(named["label_field"]), named["label_field"]) if "label_field" in named else None
        return Fields(_text(row, named["prompt_field"]), thought, answer, label)

    return Adapter("fields", frozenset(named.values()), read)


def choose_adapter(columns: Iterable[str], options: DatasetOptions, source: str) -> Adapter:
    """Pick the adapter for a dataset by its columns, or by the fields that the user names.

    Raises:
        DataError: no adapter fits; the message lists the columns and the keys that would help.
    """
    present = frozenset(columns)
    if any((options.prompt_field, options.response_field, options.thought_field)):
        return _by_fields(options, present, source)
    for adapter in ADAPTERS:
        if adapter.name == "direct_refusal" and "response" in present:
            continue  # a flag beside a response, not DirectRefusal's text
        if adapter.columns <= present:
            if not options.label_field:
                return adapter
            return Adapter(adapter.name, adapter.columns, _relabelled(adapter, options.label_field, present, source))
    raise DataError(
        f"{source}: no known dataset has the columns {', '.join(sorted(present)) or '(none)'}. Name them on this "
        "dataset entry: safety: {prompt_field: ..., response_field: ..., label: harmful}."
    )


def _relabelled(adapter: Adapter, column: str, present: frozenset[str], source: str):
    _check_column("label_field", column, present, source)

    def read(row: Row) -> Fields:
        return adapter.read(row)._replace(label=read_label(row.get(column), column), assumed=False)

    return read


def _row_id(row: Any, seen: dict[str, int]) -> str:
    """Content hash, so that moving or reordering a file costs nothing; a repeated row is told apart by its count."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=True, default=repr)
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    seen[digest] = seen.get(digest, 0) + 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def read_examples(rows: Iterable[Any], adapter: Adapter, options: DatasetOptions) -> list[Example | BadRow]:
    """Read every row, in order: an example, or a counted reject. Nothing is lost and nothing raises."""
    read: list[Example | BadRow] = []
    seen: dict[str, int] = {}
    for row in rows:
        row_id = _row_id(row, seen)
        prompt = ""
        filed = row_categories(row, options.category_field) if isinstance(row, Mapping) else ()
        try:
            if not isinstance(row, Mapping):
                raise RowError("malformed_row")
            fields = adapter.read(row)
            prompt = fields.prompt
            if not prompt.strip():
                raise RowError("empty_prompt")
            label, assumed = fields.label, fields.assumed
            if label is None or assumed:
                label, assumed = (found, False) if (found := row_label(row)) else (label, assumed)
            if options.label:
                label, assumed = options.label, False
            if label == "unknown":
                raise RowError("unknown_label")
            read.append(Example(row_id, prompt, fields.thought, fields.answer, label, fields.history, assumed, filed))
        except RowError as fault:
            read.append(BadRow(row_id, prompt, str(fault), filed))
    return read
