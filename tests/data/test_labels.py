"""Labels as datasets spell them, and what follows where they say nothing."""

from __future__ import annotations

import pytest
from support.stage import config, rows_of, scripted_by_prompt

from axolotl_safety.data.labels import read_label, row_label
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import DataError


@pytest.mark.parametrize(
    ("value", "column", "found"),
    [
        ("vanilla_harmful", "label", "harmful"),
        ("adversarial_benign", "data_type", "benign"),
        ("unharmful", "prompt_harm_label", "benign"),
        ("Unsafe", "label", "harmful"),
        ("safe", "label", "benign"),
        ("not safe", "label", "harmful"),
        ("not_harmful", "label", "benign"),
        ("non-malicious", "label", "benign"),
        ("Safety risk", "label", "unknown"),
        ("safety_violation", "label", "unknown"),
        ("harmful or benign", "label", "unknown"),
        ("spam", "label", "unknown"),
        ("", "label", "unknown"),
        (1, "label", "unknown"),
        (True, "toxic", "harmful"),
        (0, "toxic", "benign"),
        ("1", "is_harmful", "harmful"),
        ("False", "is_unsafe", "benign"),
        ("Yes", "prompt_is_harmful", "harmful"),
        ("no", "unsafe", "benign"),
        ("no", "label", "unknown"),
        (True, "is_benign", "benign"),
        (0, "is_safe", "harmful"),
        (2, "toxic", "unknown"),
        (None, "toxic", "unknown"),
        (["harmful"], "label", "unknown"),
    ],
)
def test_a_label_means_what_it_says(value, column, found):
    assert read_label(value, column) == found


def test_the_first_known_column_counts_and_a_responses_label_does_not():
    assert row_label({"is_harmful": True, "response": "x"}) == "harmful"
    assert row_label({"label": "benign", "toxic": 1}) == "benign"
    assert row_label({"is_safe": True}) is None and row_label({"label": None}) is None


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"prompt": "q", "response": "Sure.", "label": "harmful"}, "harmful"),
        ({"messages": [{"role": "user", "content": "q"}], "is_harmful": True}, "harmful"),
        ({"question": "q", "response": "Sure.", "label": "benign"}, "benign"),
        ({"instruction": "q", "response": "Sure.", "toxic": 0}, "benign"),
        ({"prompt": "q", "prompt_harm_label": "unharmful"}, "benign"),
    ],
)
def test_every_adapter_reads_a_label_column(tmp_path, models, row, label):
    model = models("qwen3")
    wanted = "I can't help with that." if label == "harmful" else "Take a cloth."
    answer = scripted_by_prompt(model, lambda shown, request: f"<think>\nWell then.\n</think>\n\n{wanted}")
    output = run_stage(config(tmp_path, model, [row], method="thinksafe"), make_engine=answer)[0]
    assert [found["label"] for found in rows_of(output)] == [label]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "response": "Sure, here is how."},
        {"question": "q", "response": "Four."},
        {"instruction": "q", "response": "Four."},
        {"prompt": "q", "response": "Nice things.", "is_safe": True, "category": {}},
    ],
)
def test_thinksafe_never_takes_a_silent_row_for_harmless(tmp_path, models, row):
    with pytest.raises(DataError, match="no_label 1.*label: harmful"):
        run_stage(config(tmp_path, models("qwen3"), [row], method="thinksafe"))


def test_the_heuristic_guard_lets_an_answer_pass_only_where_the_row_says_benign(tmp_path, models):
    model = models("qwen3")
    rows = [{"prompt": f"How do I polish lamp {n}?", "response": f"Take cloth number {n}."} for n in range(8)]

    def statuses(folder: str, **entry: object) -> set[tuple[str, str | None]]:
        (tmp_path / folder).mkdir()
        refused = {"prompt": "How do I jinx it?", "response": "I can't help with that.", "kind": "harmful"}
        cfg = config(tmp_path / folder, model, [refused, *rows], **entry)
        answer = scripted_by_prompt(
            model,
            lambda shown, request: (
                "<think>\nWell then.\n</think>\n\n"
                + ("I can't help with that at all." if "jinx" in shown else "Use a soft cloth for it.")
            ),
        )
        found = rows_of(run_stage(cfg, make_engine=answer)[0])
        return {(row["status"], row["reason"]) for row in found if "polish" in row["prompt"]}

    assert statuses("silent") == {("rejected", "guard_unsafe")}
    rows = [{**row, "kind": "benign"} for row in rows]
    assert statuses("said", entry={"safety": {"label_field": "kind"}}) == {("accepted", None)}


def test_unreadable_labels_are_shown(tmp_path, models):
    rows = [{"prompt": f"q{n}", "label": n % 3} for n in range(6)]
    with pytest.raises(DataError, match=r"Labels seen in 'label': 0, 1, 2\. Known are words"):
        run_stage(config(tmp_path, models("qwen3"), rows, method="thinksafe"))
