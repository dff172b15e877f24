"""Rows as files and libraries write them: read as expected, or stopped by the name of the format."""

from __future__ import annotations

import csv
import json

import pytest
from axolotl.utils.dict import DictDefault
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from support import tiny
from support.stage import config, manifest_of, rows_of, scripted_by_prompt

from axolotl_safety.config import DatasetOptions
from axolotl_safety.data.examples import BadRow, Example, choose_adapter, read_example
from axolotl_safety.data.sources import read_source
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import DataError

ASKED = {"role": "user", "content": "q"}
SAID = {"role": "assistant", "content": "<think>R</think>A"}


def source(path, **entry):
    return read_source(DictDefault({"path": str(path)} | entry), None, 0)


def examples(found, **options) -> list[Example | BadRow]:
    chosen = DatasetOptions(**options)
    adapter = choose_adapter(found.columns, chosen, found.name)
    pairs = zip(found.rows, found.row_ids, strict=True)
    return [read_example(row, row_id, adapter, chosen) for row, row_id in pairs]


def parts(example: Example | BadRow):
    return (example.prompt, example.thought, example.answer) if isinstance(example, Example) else example.reason


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED], "completion": [SAID]},
        {"prompt": "q", "completion": "<think>R</think>A"},
        {"prompt": [ASKED], "completion": "<think>R</think>A"},
        {"prompt": [ASKED], "response": [SAID]},
        {"messages": [ASKED, SAID]},
        {"messages": json.dumps([ASKED, SAID])},
        {"conversations": json.dumps([{"from": "human", "value": "q"}, {"from": "gpt", "value": "R</think>A"}])},
        {"messages": {"role": ["user", "assistant"], "content": ["q", "<think>R</think>A"]}},
        {"prompt": [ASKED, SAID]},
        {"prompt": json.dumps([ASKED]), "completion": json.dumps([SAID])},
        {"prompt": json.dumps([ASKED, SAID], indent=1)},
        {
            "prompt": {"role": ["user"], "content": ["q"]},
            "response": {"role": ["assistant"], "content": ["<think>R</think>A"]},
        },
    ],
)
def test_conversations_in_every_spelling(tmp_path, row):
    found = source(tiny.write_rows(tmp_path / "rows.jsonl", [row, row]))
    assert [parts(one) for one in examples(found)] == [("q", "R", "A")] * 2


def test_a_prompt_of_turns_keeps_what_was_said_before(tmp_path):
    turns = [{"role": "system", "content": "Be kind."}, ASKED, {"role": "assistant", "content": "a"}, ASKED]
    found = source(tiny.write_rows(tmp_path / "rows.jsonl", [{"prompt": turns, "completion": [SAID]}]))
    (example,) = examples(found)
    assert example.history == (("system", "Be kind."), ("user", "q"), ("assistant", "a")) and example.answer == "A"
    (alone,) = examples(source(tiny.write_rows(tmp_path / "alone.jsonl", [{"prompt": turns}])))
    assert (alone.prompt, alone.answer, len(alone.history)) == ("q", "", 3)


@pytest.mark.parametrize("turns", [[ASKED, SAID], json.dumps([ASKED, SAID])])
def test_a_named_column_may_hold_the_whole_conversation(tmp_path, turns):
    found = source(tiny.write_rows(tmp_path / "rows.jsonl", [{"dialogue": turns}]))
    assert [parts(one) for one in examples(found, prompt_field="dialogue")] == [("q", "R", "A")]


@pytest.mark.parametrize("text", ['["a", "b"] is a list. Why?', '[{"name": "x"}]', "[{role}] in a template", "[[["])
def test_a_prompt_that_looks_a_little_like_turns_is_text(tmp_path, text):
    found = source(tiny.write_rows(tmp_path / "rows.jsonl", [{"prompt": text}]))
    assert [parts(one) for one in examples(found)] == [(text, "", "")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": [ASKED, SAID], "completion": [SAID]}, "unsupported_conversation"),
        ({"prompt": [ASKED], "completion": [SAID, ASKED]}, "unsupported_conversation"),
        ({"prompt": [ASKED], "completion": [ASKED]}, "unsupported_conversation"),
        ({"prompt": [1, 2], "completion": "A"}, "not_text"),
        ({"messages": "user: hello"}, "unreadable_messages"),
        ({"prompt": repr([ASKED])}, "unreadable_messages"),
        ({"prompt": [ASKED], "completion": repr([SAID])}, "unreadable_messages"),
        ({"messages": '{"role": "user"}'}, "unreadable_messages"),
    ],
)
def test_what_is_no_such_conversation_is_a_counted_reject(tmp_path, row, reason):
    found = source(tiny.write_rows(tmp_path / "rows.jsonl", [row, row]))
    assert [parts(one) for one in examples(found)] == [reason] * 2


COLUMNS = {"prompt": ["q0", "q1"], "response": ["A0", "A1"]}
ROWS = [{"prompt": "q0", "response": "A0"}, {"prompt": "q1", "response": "A1"}]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("whole", "rows"),
    [
        (COLUMNS, ROWS),
        ({name: dict(zip("01", values, strict=True)) for name, values in COLUMNS.items()}, ROWS),
        ({"data": ROWS}, ROWS),
        (ROWS, ROWS),
        (ROWS[0], ROWS[:1]),
        ({"messages": [ASKED, SAID]}, [{"messages": [ASKED, SAID]}]),
        ({"prompt": [ASKED], "completion": [SAID]}, [{"prompt": [ASKED], "completion": [SAID]}]),
        ({"messages": [[ASKED, SAID]] * 2}, [{"messages": [ASKED, SAID]}] * 2),
    ],
)
def test_a_file_of_one_json_object(tmp_path, whole, rows, indent):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(whole, indent=indent))
    assert source(path).rows == rows
    assert source(path, split="train[:1]").rows == rows[:1]


def test_columns_of_different_lengths_are_stopped_by_name(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"prompt": ["q0", "q1"], "response": ["A0"]}))
    with pytest.raises(DataError, match=r"a table by columns.*prompt 2, response 1\. Write one object per row"):
        source(path)


def test_lines_are_still_read_line_by_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "q0"\n{"prompt": "q1", "response": "A1"}\n{"prompt": "q2", "response": "A2"}\n')
    assert [parts(one) for one in examples(source(path))] == ["malformed_row", ("q1", "", "A1"), ("q2", "", "A2")]


def test_a_table_with_tabs_is_read_like_one_with_commas(tmp_path):
    written = [{"prompt": 'q "0", or\nmore', "response": "A0"}, {"prompt": "q1", "response": "A\t1"}]
    for name, mark in (("rows.tsv", "\t"), ("rows.csv", ",")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["prompt", "response"], delimiter=mark)
            writer.writeheader()
            writer.writerows(written)
    assert source(tmp_path / "rows.tsv").rows == source(tmp_path / "rows.csv").rows == written
    assert source(tmp_path / "rows.tsv", split="train[1:]").rows == written[1:]
    assert source(tmp_path, data_files=[str(tmp_path / "rows.tsv")], ds_type="csv").rows == written


def test_classes_are_read_by_their_names_and_rows_keep_their_ids(tmp_path):
    kinds = ClassLabel(names=["benign", "harmful"])
    topics = ClassLabel(names=["toys", "gardens"])
    columns = {"prompt": ["q0", "q1", "q2"], "label": [0, 1, -1], "category": [[0, 1], [1], []]}
    named = Features({"prompt": Value("string"), "label": kinds, "category": Sequence(topics)})
    Dataset.from_dict(columns, features=named).save_to_disk(tmp_path / "named")
    Dataset.from_dict(columns).save_to_disk(tmp_path / "plain")
    found, plain = source(tmp_path / "named"), source(tmp_path / "plain")
    assert [row["label"] for row in found.rows] == ["benign", "harmful", None]
    assert [one.label for one in examples(found)] == ["benign", "harmful", None]
    assert [one.categories for one in examples(found)] == [("toys", "gardens"), ("gardens",), ()]
    assert (found.row_ids, found.sha256) == (plain.row_ids, plain.sha256)  # what was finished before counts
    assert [parts(one) for one in examples(plain)] == ["unknown_label"] * 3


def saved(folder, split=None, count=10):
    rows = Dataset.from_dict({"prompt": [f"q{n}" for n in range(count)]}, split=split)
    rows.save_to_disk(folder)
    return folder


@pytest.mark.parametrize("own", [None, "train", "validation"])
def test_the_split_of_a_saved_dataset_is_heeded(tmp_path, own):
    folder = saved(tmp_path / "saved", own)
    name = own or "train"
    assert len(source(folder).rows) == len(source(folder, split=name).rows) == 10
    assert [row["prompt"] for row in source(folder, split=f"{name}[2:4]").rows] == ["q2", "q3"]
    assert len(source(folder, split=f"{name}[:50%]").rows) == 5
    assert len(source(folder, split=f"{name}[:4]", shards=2, shards_idx=1).rows) == 2
    for other in ("test", "test[:2]"):
        with pytest.raises(DataError, match=f"is one saved Dataset, split '{name}', and has no split 'test'"):
            source(folder, split=other)
    with pytest.raises(DataError, match=r"cannot be read; use \[a:b\]"):
        source(folder, split=f"{name}[2-4]")


def test_a_saved_dict_of_splits_is_read_as_before(tmp_path):
    both = {"train": Dataset.from_dict({"prompt": ["q"] * 4}), "test": Dataset.from_dict({"prompt": ["t"] * 2})}
    DatasetDict(both).save_to_disk(tmp_path / "both")
    assert len(source(tmp_path / "both").rows) == 4 and source(tmp_path / "both", split="test").rows[0]["prompt"] == "t"
    with pytest.raises(DataError, match="has the splits train, test, not 'dev'"):
        source(tmp_path / "both", split="dev")


BAD_RESPONSES = [None, "", "   ", 7, ["x"], "<think>cut off", "<think>R</think>", "\ud800"]
BY_FORMAT = {
    "pair": lambda n, bad: {"prompt": f"How do I jinx lamp {n}?", "response": bad, "label": "harmful"},
    "completion": lambda n, bad: {"prompt": f"How do I jinx lamp {n}?", "completion": bad, "label": "harmful"},
    "safechain": lambda n, bad: {"instruction": f"How do I jinx lamp {n}?", "response": bad, "label": "harmful"},
    "thinksafe": lambda n, bad: {
        **{"instruction": f"How do I jinx lamp {n}?", "response": bad, "prompt_label": "harmful"}
    },
    "r1_act": lambda n, bad: {"instruction": f"How do I jinx lamp {n}?", "response": bad, "toxic": 1},
    "star1": lambda n, bad: {
        **{"question": f"How do I jinx lamp {n}?", "response": bad, "category": ["x"], "score": {}}
    },
    "safekey": lambda n, bad: {"question": f"How do I jinx lamp {n}?", "response": bad, "summary_end_idx": 3},
    "alpaca": lambda n, bad: {"instruction": f"How do I jinx lamp {n}?", "output": bad, "label": "harmful"},
    "wildjailbreak": lambda n, bad: {
        **{"vanilla": f"How do I jinx lamp {n}?", "adversarial": "", "completion": bad, "data_type": "vanilla_harmful"}
    },
    "beavertails": lambda n, bad: {
        **{"prompt": f"How do I jinx lamp {n}?", "response": bad, "is_safe": True, "category": {}, "label": "harmful"}
    },
    "direct_refusal": lambda n, bad: {"prompt": f"How do I jinx lamp {n}?", "refusal": bad},
    "messages": lambda n, bad: {
        "messages": [{"role": "user", "content": f"How do I jinx lamp {n}?"}, {"role": "assistant", "content": bad}],
        "label": "harmful",
    },
    "conversations": lambda n, bad: {
        "conversations": [{"from": "human", "value": f"How do I jinx lamp {n}?"}, {"from": "gpt", "value": bad}],
        "label": "harmful",
    },
    "fields": lambda n, bad: {"ask": f"How do I jinx lamp {n}?", "say": bad, "why": bad, "kind": "harmful"},
}


@pytest.mark.parametrize("name", BY_FORMAT)
def test_thinksafe_loses_no_prompt_for_a_response_that_it_does_not_read(tmp_path, models, name):
    found = [BY_FORMAT[name](n, bad) for n, bad in enumerate(BAD_RESPONSES)]
    block = {"prompt_field": "ask", "response_field": "say", "thought_field": "why", "label_field": "kind"}
    entry = {"safety": block} if name == "fields" else {}
    model = models("qwen3")
    start = scripted_by_prompt(model, lambda shown, request: "<think>\nNo.\n</think>\n\nI can't help with that.")
    output = run_stage(config(tmp_path, model, found, method="thinksafe", entry=entry), make_engine=start)[0]
    assert manifest_of(output)["source"]["adapter"] == name
    assert [(row["status"], row["label"]) for row in rows_of(output)] == [("accepted", "harmful")] * len(found)
    assert [row["prompt"] for row in rows_of(output)] == [f"How do I jinx lamp {n}?" for n in range(len(found))]


def test_a_method_that_reads_it_still_counts_such_a_row(tmp_path, models):
    found = [BY_FORMAT["pair"](n, bad) for n, bad in enumerate([*BAD_RESPONSES, "I can't help with that."])]
    output = run_stage(config(tmp_path, models("qwen3"), found, method="vanilla"))[0]
    reasons = [row["reason"] for row in rows_of(output)]
    assert reasons == ["null_text", "no_reference", "no_reference", "not_text", "not_text", "no_reference"] + [
        "empty_answer",
        "invalid_unicode",
        None,
    ]


def test_a_response_that_is_there_still_says_that_its_prompt_is_harmful(tmp_path, models):
    said = ["I'm sorry, but I can't help with that.", None, "Take a cloth."]
    found = [{"instruction": f"How do I jinx lamp {n}?", "response": text} for n, text in enumerate(said)]
    model = models("qwen3")
    start = scripted_by_prompt(model, lambda shown, request: "<think>\nNo.\n</think>\n\nI can't help with that.")
    output = run_stage(config(tmp_path, model, found, method="thinksafe"), make_engine=start)[0]
    assert [row["reason"] for row in rows_of(output)] == [None, "no_label", "no_label"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"prompt": [1, 2], "response": "A"}],
            "'prompt' holds a list of 2, the first a number, 'response' holds text",
        ),
        ([{"prompt": {"text": "q"}, "response": "A"}], "'prompt' holds a mapping of text"),
        ([{"messages": "user: hello"}], "'messages' holds text.*lists of turns"),
        (["hello", "you"], "no known dataset has the columns \\(none\\).*one JSON object per line"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_way_out(tmp_path, models, rows, said):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in [*rows, *rows]))
    with pytest.raises(DataError, match=said):
        run_stage(config(tmp_path, models("qwen3"), path, method="vanilla"))
