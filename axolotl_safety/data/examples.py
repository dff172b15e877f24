"""Source rows in, examples out: the adapters that know the public datasets by their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from axolotl_safety.config import DatasetOptions
from axolotl_safety.util.errors import DataError, RowError

from .conversations import Turn, is_conversation, read_response, read_turns, sound_text
from .labels import FoundLabel, read_label, row_categories, row_label
from .sources import identify
from .thinking import CLOSE, Thinking, split_response

Label = Literal["harmful", "benign", "any"]
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
        label: what row or user say of the prompt, None if they say nothing; ``any`` leaves it to the guard.
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
        response: reads thought and answer, which a method may do without; raises `RowError` if there are none.
        label: None where the row says nothing; ``assumed`` if only the dataset's usual content says so.
        history: the turns before the prompt.
    """

    prompt: str
    response: Callable[[], tuple[str, str]]
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


def _asked(row: Row, column: str) -> tuple[tuple[Turn, ...], str]:
    """History and prompt: a text, or the turns of a conversation that waits for its response."""
    history, prompt, response = _conversed(row, column)
    if response():
        raise RowError("unsupported_conversation")
    return history, prompt


def _conversed(row: Row, column: str) -> tuple[tuple[Turn, ...], str, Callable[[], str]]:
    """History, prompt, and what reads the response where the conversation goes on to one."""
    value = row.get(column)
    return read_turns(value) if is_conversation(value) else ((), sound_text(value), str)


def _response(text: str) -> tuple[str, str]:
    """Thought and answer of a foreign response; SafeChain-like rows lack the opening marker on purpose."""
    thought, answer = split_response(text)
    if CLOSE in text and not answer:
        raise RowError("empty_answer")
    return thought, answer


def _said(row: Row, column: str) -> Callable[[], tuple[str, str]]:
    """What reads the response in a column: a text, or a conversation of one assistant turn."""

    def read() -> tuple[str, str]:
        value = row.get(column)
        return _response(read_response(value) if is_conversation(value) else sound_text(value))

    return read


def _nothing() -> tuple[str, str]:
    return "", ""


def _parts(refusal: str) -> tuple[str, str]:
    """Both parts of ``Question: ... Answer: ...``; a text of another form has neither."""
    text = refusal.strip()
    if not text.startswith("Question:"):
        return "", ""
    rest = text.removeprefix("Question:").lstrip()
    end = rest.find("Answer:", 1)  # a question has one letter at least
    return (rest[:end].rstrip(), rest[end:].removeprefix("Answer:").strip()) if end > 0 else ("", "")


def _direct_refusal(row: Row) -> Fields:
    try:
        prompt, answer = _question_and_answer(row)
    except RowError as error:
        fault = error
        if not isinstance(row.get("prompt"), str):
            raise

        def unreadable() -> tuple[str, str]:
            raise fault

        return Fields(_text(row, "prompt"), unreadable, "harmful")
    return Fields(prompt, lambda: (DIRECT_REFUSAL_THOUGHT, answer), "harmful")


def _question_and_answer(row: Row) -> tuple[str, str]:
    refusal, prompt = _text(row, "refusal"), row.get("prompt")
    if isinstance(prompt, str) and refusal.startswith(head := f"Question: {prompt}"):
        answer = refusal.removeprefix(head).strip()  # the prompt's own text may hold "Answer:"
        if answer.startswith("Answer:") and answer.removeprefix("Answer:").strip():
            return prompt, answer.removeprefix("Answer:").strip()
    question, answer = _parts(refusal)
    if question and answer:
        return question, answer
    if isinstance(prompt, str) and refusal.strip() and "Answer:" not in refusal:
        return _text(row, "prompt"), refusal.strip()
    raise RowError("unreadable_refusal")


def _pair(
    prompt: str, response: str, label: str | None = None, default: Label | None = None, assumed: bool = False
) -> Callable[[Row], Fields]:
    def read(row: Row) -> Fields:
        history, asked = _asked(row, prompt)
        found = read_label(row.get(label), label) if label else default
        return Fields(asked, _said(row, response), found, history, assumed)

    return read


def _safekey(row: Row) -> Fields:
    label = "benign" if row.get("source") == "4o_rewrite" else "harmful"
    return Fields(_text(row, "question"), _said(row, "response"), label)


def _wildjailbreak(row: Row) -> Fields:
    prompt = sound_text(row.get("adversarial") or row.get("vanilla"))
    response = _said(row, "completion") if row.get("completion") is not None else _nothing
    return Fields(prompt, response, read_label(row.get("data_type"), "data_type"))


def _beavertails(row: Row) -> Fields:
    """A response that its own dataset calls unsafe is no reference; what drew it out of a model is a harmful prompt."""
    if read_label(row.get("is_safe"), "is_safe") != "benign":
        return Fields(_text(row, "prompt"), _nothing, "harmful")
    return Fields(_text(row, "prompt"), _said(row, "response"), None)


def _alpaca(row: Row) -> Fields:
    """Axolotl's own most common columns; the optional input stands below the instruction, as in its prompts."""
    prompt = "\n\n".join(filter(None, (_text(row, "instruction"), sound_text(row.get("input") or ""))))
    return Fields(prompt, _said(row, "output"), None)


def _conversation(column: str) -> Callable[[Row], Fields]:
    def read(row: Row) -> Fields:
        history, prompt, response = read_turns(row.get(column))
        return Fields(prompt, lambda: _response(response()), None, history)

    return read


def _prompts(column: str) -> Callable[[Row], Fields]:
    def read(row: Row) -> Fields:
        history, prompt, response = _conversed(row, column)
        return Fields(prompt, lambda: _response(response()), None, history)

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
    _adapter("completion", "prompt completion", _pair("prompt", "completion")),
    _adapter("messages", "messages", _conversation("messages")),
    _adapter("conversations", "conversations", _conversation("conversations")),
    # Prompts alone, which ThinkSafe can answer; the label comes from the dataset's block.
    *(_adapter(f"prompts ({column})", column, _prompts(column)) for column in ("prompt", "instruction", "question")),
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
        asked = _asked if "response_field" in named else _conversed
        history, prompt, *said = asked(row, named["prompt_field"])

        def response() -> tuple[str, str]:
            thought, answer = (
                _said(row, named["response_field"])() if "response_field" in named else _response(said[0]())
            )
            return (_text(row, named["thought_field"]).strip() if "thought_field" in named else thought), answer

        label = read_label(row.get(named["label_field"]), named["label_field"]) if "label_field" in named else None
        return Fields(prompt, response, label, history)

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
    if not present:
        raise DataError(
            f"{source}: no known dataset has the columns (none): no row is a mapping of columns. Write a JSON list of "
            "objects, one JSON object per line, or a table (CSV, TSV, Parquet) with a line of names."
        )
    raise DataError(
        f"{source}: no known dataset has the columns {', '.join(sorted(present))}. Name them on this "
        "dataset entry: safety: {prompt_field: ..., response_field: ..., label: harmful}."
    )


def _relabelled(adapter: Adapter, column: str, present: frozenset[str], source: str):
    _check_column("label_field", column, present, source)

    def read(row: Row) -> Fields:
        return adapter.read(row)._replace(label=read_label(row.get(column), column), assumed=False)

    return read


def read_examples(
    rows: Sequence[Any],
    adapter: Adapter,
    options: DatasetOptions,
    thinking: Thinking | None = None,
    needs_response: bool = True,
) -> list[Example | BadRow]:
    """Read every row, in order: an example, or a counted reject. Nothing is lost and nothing raises."""
    row_ids, _ = identify(rows)
    return [
        read_example(row, row_ids[place], adapter, options, thinking, needs_response) for place, row in enumerate(rows)
    ]


def read_example(
    row: Any,
    row_id: str,
    adapter: Adapter,
    options: DatasetOptions,
    thinking: Thinking | None = None,
    needs_response: bool = True,
) -> Example | BadRow:
    """Read one row.

    Args:
        row: of the source.
        row_id: see `Source`.
        adapter: how it is read.
        options: the dataset's block.
        thinking: the target's markers: a thought stands between ``<think>`` and ``</think>``, or between these.
        needs_response: a row whose response cannot be read is a reject; otherwise it has none.
    """
    prompt = ""
    filed = row_categories(row, options.category_field) if isinstance(row, Mapping) else ()
    try:
        if not isinstance(row, Mapping):
            raise RowError("malformed_row")
        fields = adapter.read(row) if thinking is None else _own_markers(adapter.read(row), thinking)
        prompt = fields.prompt
        if not prompt.strip():
            raise RowError("empty_prompt")
        thought, answer = fields.response() if needs_response else _if_readable(fields)
        label, assumed = fields.label, fields.assumed
        if label is None or assumed:
            label, assumed = (found, False) if (found := row_label(row)) else (label, assumed)
        if options.label:
            label, assumed = options.label, False
        if label == "unknown":
            raise RowError("unknown_label")
        return Example(row_id, prompt, thought, answer, label, fields.history, assumed, filed)
    except RowError as fault:
        return BadRow(row_id, prompt, str(fault), filed)


def _own_markers(fields: Fields, thinking: Thinking) -> Fields:
    """What an adapter read, with thoughts in the target's own markers taken out of its answers."""

    def response() -> tuple[str, str]:
        thought, answer = fields.response()
        found = thinking.read(thought, answer)
        if answer and not found[1]:
            raise RowError("empty_answer")
        return found

    history = tuple(
        (role, thinking.read("", text)[1] if role == "assistant" else text) for role, text in fields.history
    )
    return fields._replace(response=response, history=history)


def _if_readable(fields: Fields) -> tuple[str, str]:
    """Thought and answer where there are any: what they decide may still say what the prompt is."""
    try:
        return fields.response()
    except RowError:
        return _nothing()
