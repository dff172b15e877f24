"""Row adapters: the public datasets by their columns, anything else by field names, every bad row with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axolotl_safety.config import DatasetOptions
from axolotl_safety.data.examples import BadRow, Example, choose_adapter, read_examples
from axolotl_safety.data.sources import select_rows
from axolotl_safety.util.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def read(rows, **options):
    chosen = DatasetOptions(**options)
    adapter = choose_adapter({key for row in rows for key in row}, chosen, "data")
    return adapter.name, *split(read_examples(rows, adapter, chosen))


def split(rows):
    return [row for row in rows if isinstance(row, Example)], [row for row in rows if isinstance(row, BadRow)]


@pytest.mark.parametrize(
    ("row", "name", "expected"),
    [
        (
            {"prompt": "q", "text": "t", "refusal": "Question: q?\nAnswer: No.\nNever."},
            "direct_refusal",
            ("q?", "I should not answer this question!", "No.\nNever.", "harmful"),
        ),
        ({"instruction": "q", "response": "<think>\nR\n</think>\n\nA"}, "r1_act", ("q", "R", "A", "harmful")),
        (
            {"instruction": "q", "response": "R</think>A", "label": "adversarial_benign"},
            "safechain",
            ("q", "R", "A", "benign"),
        ),
        (
            {
                "instruction": "q",
                "response": "<think>R</think>A",
                "prompt_label": "vanilla_harmful",
                "response_label": "safe",
            },
            "thinksafe",
            ("q", "R", "A", "harmful"),
        ),
        ({"id": "1", "question": "q", "response": "<think>R</think>A"}, "star1", ("q", "R", "A", "harmful")),
        (
            {"question": "q", "response": "<think>R</think>A", "source": "4o_rewrite", "summary_end_idx": 3},
            "safekey",
            ("q", "R", "A", "benign"),
        ),
        ({"instruction": "q", "input": "x", "output": "<think>R</think>A"}, "alpaca", ("q\n\nx", "R", "A", None)),
        ({"instruction": "q", "input": "", "output": "A"}, "alpaca", ("q", "", "A", None)),
        ({"prompt": "q", "response": "A", "is_safe": True, "category": {}}, "beavertails", ("q", "", "A", None)),
        ({"prompt": "q", "response": "R</think>A", "split_name": "random"}, "pair", ("q", "R", "A", None)),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>R</think>A"}]},
            "messages",
            ("q", "R", "A", None),
        ),
    ],
)
def test_known_datasets_are_recognised_by_their_columns(row, name, expected):
    found, examples, bad = read([row])
    assert found == name and not bad
    assert (examples[0].prompt, examples[0].thought, examples[0].answer, examples[0].label) == expected


def turns(*pairs):
    return {"messages": [{"role": role, "content": text} for role, text in pairs]}


def test_the_last_assistant_turn_is_the_response_and_what_precedes_is_history():
    row = turns(
        ("system", "Be kind."),
        ("user", "first"),
        ("assistant", "<think>old thought</think>\n\nold answer"),
        ("user", "q"),
        ("assistant", "<think>R</think>A"),
    )
    _, (example,), bad = read([row])
    assert not bad and (example.prompt, example.thought, example.answer) == ("q", "R", "A")
    assert example.history == (("system", "Be kind."), ("user", "first"), ("assistant", "old answer"))
    assert example.asked.endswith("\n\nq") and "[system] Be kind." in example.asked
    shared = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "R</think>A"}]}
    assert read([shared])[1][0].answer == "A"
    assert read([turns(("user", "q"))])[1][0].answer == ""
    half_filled = {"messages": [{"role": "user", "content": "q", "from": None, "value": None}]}
    assert read([half_filled])[1][0].prompt == "q"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (turns(("assistant", "A")), "unsupported_conversation"),
        (turns(("user", "q"), ("system", "s"), ("user", "q")), "unsupported_conversation"),
        (turns(("user", "a"), ("user", "b"), ("assistant", "A")), "unsupported_conversation"),
        (turns(("user", "q"), ("tool", "x")), "unsupported_conversation"),
        (turns(("user", 3)), "not_text"),
        (turns(("user", None)), "null_text"),
        (turns(("user", "\ud800")), "invalid_unicode"),
        ({"messages": []}, "unreadable_messages"),
        ({"messages": "hello"}, "unreadable_messages"),
        ({"messages": ["hello"]}, "unreadable_messages"),
    ],
)
def test_what_is_no_conversation_is_a_counted_reject(row, reason):
    _, examples, (bad,) = read([row])
    assert not examples and bad.reason == reason


def test_an_unsafe_beavertails_response_is_no_reference():
    row = {"prompt": "q", "response": "Do this.", "is_safe": False, "category": {}}
    _, (example,), _ = read([row])
    assert (example.answer, example.label) == ("", "harmful")


@pytest.mark.parametrize("column", ["prompt", "instruction", "question"])
def test_prompts_alone(column):
    found, (example,), _ = read([{column: "q", "answer": "#### 4"}], label="benign")
    assert found == f"prompts ({column})" and (example.prompt, example.answer, example.label) == ("q", "", "benign")


def test_any_dataset_by_field_names():
    rows = [
        {"ask": "q", "out": "A", "why": " R ", "kind": "harmless"},
        {"ask": "q2", "out": "B", "why": "R", "kind": "??"},
    ]
    options = {"prompt_field": "ask", "response_field": "out", "thought_field": "why", "label_field": "kind"}
    _, examples, bad = read(rows, **options)
    assert (examples[0].thought, examples[0].answer, examples[0].label) == ("R", "A", "benign")
    assert [row.reason for row in bad] == ["unknown_label"]
    assert read(rows, **{**options, "label_field": None}, label="harmful")[1][1].label == "harmful"
    with pytest.raises(DataError, match="'nope'.*ask, kind, out, why"):
        read(rows, prompt_field="nope")
    with pytest.raises(DataError, match="prompt_field"):
        read(rows, response_field="out")


def test_rows_keep_their_id_when_reordered_and_doubles_are_told_apart():
    rows = [{"prompt": "a", "response": "x"}, {"prompt": "b", "response": "x"}, {"prompt": "a", "response": "x"}]
    ids = [example.row_id for example in read(rows)[1]]
    assert len(set(ids)) == 3
    assert {example.row_id for example in read(rows[::-1])[1]} == set(ids)


def test_selection_is_by_seed_and_nested():
    ids = [f"row{index}" for index in range(100)]
    small, large = select_rows(ids, 10, 1), select_rows(ids[::-1], 30, 1)
    assert len(small) == 10 and small < large and select_rows(ids, 10, 2) != small
    assert select_rows(ids, None, 1) == select_rows(ids, 1000, 1) == set(ids)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(anything | st.fixed_dictionaries({"instruction": anything, "response": anything, "label": anything})))
def test_any_json_row_is_an_example_or_a_counted_reject(rows):
    options = DatasetOptions()
    adapter = choose_adapter(["instruction", "response", "label"], options, "data")
    examples, bad = split(read_examples(rows, adapter, options))
    assert len(examples) + len(bad) == len(rows)
    assert all(example.prompt.strip() and example.label for example in examples)
    assert all(row.reason for row in bad)
    assert len({row.row_id for row in [*examples, *bad]}) == len(rows)


@pytest.mark.skipif(not SHARED.exists(), reason="the public rows are not here")
def test_the_real_star1_file():
    rows = json.loads((SHARED / "star1" / "STAR-1.json").read_text())
    name, examples, bad = read(rows)
    assert name == "star1" and len(examples) == 1000 and not bad
    assert all(example.thought and example.answer for example in examples)
    assert not any("think>" in example.thought + example.answer for example in examples)


def test_a_label_of_the_dataset_overrules_what_cannot_be_read_and_bad_rows_never_raise():
    rows = [{"instruction": "q", "response": "R</think>A", "label": "odd"}]
    assert read(rows)[2][0].reason == "unknown_label"
    assert read(rows, label="harmful")[1][0].label == "harmful"
    wild = [
        {"vanilla": "q", "adversarial": "", "data_type": "vanilla_benign", "completion": bad}
        for bad in (7, ["x"], "\ud800")
    ]
    assert len(read(wild)[2]) == 3


def test_a_direct_refusal_prompt_may_hold_the_word_answer():
    row = {"prompt": "How?\nAnswer: x", "refusal": "Question: How?\nAnswer: x\nAnswer: I'm sorry, no."}
    example = read([row])[1][0]
    assert (example.prompt, example.answer) == ("How?\nAnswer: x", "I'm sorry, no.")
    assert read([{"prompt": "P1", "refusal": "Question: P1\nAnswer: "}])[2][0].reason == "unreadable_refusal"
