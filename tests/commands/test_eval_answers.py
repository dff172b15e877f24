"""Math answers are judged as lm-eval judges them: its own filters and metric, on GSM8K where it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.thinkers import make_thinker

from axolotl_safety.commands.evaluate.runner import take_apart
from axolotl_safety.data.math_answers import JUDGES
from axolotl_safety.data.tokenizer import TargetTokenizer

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "test.jsonl"
OWN = [
    {"answer": f"First {a} and {b}.\n{a} + {b} = <<{a}+{b}={a + b}>>{a + b}\n#### {a + b:,}"}
    for a, b in ((2, 3), (1200, 34), (0, 7), (99, 901), (5, 5))
]


def altered(solution: str) -> Iterator[str]:
    """A solution and what models make of its ending: right and wrong, marked and unmarked."""
    body, _, gold = solution.rpartition("#### ")
    yield solution
    yield solution + "1"
    yield f"{body}The answer is {gold}."
    yield f"{body}$\\boxed{{{gold}}}$"
    yield f"{body}So it is ${gold}.00"
    yield f"{body}**{gold}** dollars in 2 weeks"
    yield f"#### {gold}\nNo, wait: #### 7"
    yield f"{body}-{gold}"
    yield "I can't help with that."
    yield ""


@pytest.fixture(scope="module")
def lm_eval_judges() -> dict[str, Any]:
    """lm-eval's GSM8K filters and exact_match, from its task file."""
    import lm_eval
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    task = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text())
    options = {key: value for key, value in task["metric_list"][0].items() if key.startswith(("ignore", "regexes"))}

    def judge(settings: dict[str, Any]) -> Any:
        extract = RegexFilter(**{key: value for key, value in settings.items() if key != "function"})

        def right(answer: str, gold: str) -> bool:
            ((said,),) = extract.apply([[answer]], [{}])
            return bool(exact_match_hf_evaluate([said], [gold], **options)["exact_match"])

        return right

    return {one["name"]: judge(one["filter"][0]) for one in task["filter_list"]}


@pytest.mark.parametrize("source", ["own", "real"])
def test_gsm8k_is_judged_as_lm_eval_judges_it(lm_eval_judges, source):
    if source == "real" and not GSM8K.is_file():
        pytest.skip("GSM8K's test set is not on this machine")
    rows = OWN if source == "own" else [json.loads(line) for line in GSM8K.read_text().splitlines()[:300]]
    right = {"strict": 0, "flexible": 0}
    for row in rows:
        for answer in altered(row["answer"]):
            for own, theirs in (("strict", "strict-match"), ("flexible", "flexible-extract")):
                wanted = lm_eval_judges[theirs](answer, row["answer"])
                assert JUDGES[own](answer, row["answer"]) == wanted, (own, answer)
                right[own] += wanted
    asked = len(rows) * len(list(altered(OWN[0]["answer"])))
    assert all(0.15 * asked < count < 0.7 * asked for count in right.values())


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("We find $x = \\boxed{\\frac{3}{4}}$.", "so \\boxed{0.75}", "so \\boxed{\\frac{4}{3}}"),
        ("\\boxed{(1, 2)}", "The point is $(1,2)$.", "The point is $(2,1)$."),
        ("033", "Therefore \\boxed{33}.", "Therefore \\boxed{34}."),
        ("1 + 1 is 2\n#### 2", "It is 2.", "It is 3."),
    ],
)
def test_math_verify_sees_equal_formulas(gold, right, wrong):
    assert JUDGES["math_verify"](right, gold) and not JUDGES["math_verify"](wrong, gold)
    assert not JUDGES["math_verify"]("", gold)


def test_a_file_without_a_convention_is_judged_by_mark_or_last_number():
    assert JUDGES["marked"]("The answer is 40.", "40") and JUDGES["marked"]("#### 40, not 39", "40") is False
    assert JUDGES["marked"]("\\boxed{40} as 39 + 1 = 40, since 2 come", "so\n#### 40")


def test_an_answer_on_the_final_channel_alone_is_an_answer():
    tokenizer = make_thinker("gpt_oss")
    tokens = TargetTokenizer(tokenizer, (tokenizer.eos_token_id,))
    final = "<|channel|>final<|message|>"

    def taken(text):
        return take_apart(tokens, (*tokens.encode(text), tokens.turn_end_id))

    assert taken(f"{final}4") == ("", "4", True)
    assert taken("<|channel|>analysis<|message|>two and two") == ("two and two", "", False)
    assert taken(f"<|channel|>analysis<|message|>sum<|end|><|start|>assistant{final}4") == ("sum", "4", True)
