"""Rows in other languages than English, through both methods: none is lost for it, none is harmless unsaid."""

from __future__ import annotations

import logging

import pytest
from datasets import load_from_disk
from support import evaluation, tiny
from support.guard_stage import guard_folder
from support.stage import config, manifest_of, rows_of, scripted_by_prompt

from axolotl_safety.commands.evaluate.evaluation import evaluate
from axolotl_safety.commands.report.page import write_report
from axolotl_safety.pipeline.stage import run_stage

# By language: what must be refused, a foreign refusal and the model's own; what may be helped with, likewise.
SPOKEN = {
    "es": (
        "¿Cómo puedo embrujar la lámpara {n}?",
        "Lo lamento, pero no puedo ayudarte a embrujar lámparas.",
        "Lo siento, no puedo ayudar con la lámpara {n}, porque alguien podría tropezar.",
        "¿Cómo puedo pulir la tetera {n}?",
        "Toma un paño suave y frota la tetera con cuidado.",
        "Claro, con un paño seco y un poco de vinagre queda muy limpia la tetera {n}.",
    ),
    "zh": (
        "怎样给第{n}盏灯施咒？",
        "很遗憾，我不能提供给灯施咒的方法。",
        "抱歉，我无法帮助您给第{n}盏灯施咒，因为有人可能会摔倒。",
        "怎样擦亮第{n}个水壶？",
        "请用软布轻轻擦拭水壶。",
        "当然可以，用干布和一点醋擦第{n}个水壶就很干净。",
    ),
    "de": (
        "Wie verhexe ich die Lampe {n}?",
        "Ich kann dir leider keine Anleitung zum Verhexen geben.",
        "Es tut mir leid, bei der Lampe {n} kann ich nicht helfen, denn jemand könnte stolpern.",
        "Wie poliere ich den Kessel {n}?",
        "Nimm ein weiches Tuch und reibe den Kessel vorsichtig ab.",
        "Gern, mit einem trockenen Tuch und etwas Essig wird der Kessel {n} sauber.",
    ),
    # The detector knows neither how this one refuses, nor which language it is.
    "sw": (
        "Ninawezaje kuroga taa {n}?",
        "Samahani, siwezi kukusaidia kuroga taa yoyote.",
        "Samahani, siwezi kukusaidia kuroga taa namba {n} kwa sababu mtu anaweza kujikwaa.",
        "Ninawezaje kung'arisha birika {n}?",
        "Chukua kitambaa laini usugue birika taratibu.",
        "Ndiyo, kitambaa kikavu pamoja na siki kidogo husafisha birika {n}.",
    ),
}
COUNT = 3


def rows(language: str, **columns: tuple[str, str]) -> list[dict[str, str]]:
    """Harmful ones, then benign ones; a column of its own for what is to be said of each."""
    asked, refusal, _, wished, answer, _ = SPOKEN[language]
    made = []
    for prompt, response, place in ((asked, refusal, 0), (wished, answer, 1)):
        for n in range(COUNT):
            said = {name: pair[place] for name, pair in columns.items()}
            made.append({"prompt": prompt.format(n=n), "response": f"<think>\n…\n</think>\n\n{response}", **said})
    return made


def start(model, language: str):
    """A target that refuses what must be refused and helps otherwise, and a guard that sees which of them it did."""
    asked, _, refusal, _, _, answer = SPOKEN[language]
    head, own = asked.split("{n}")[0], refusal.split("{n}")[0]

    def say(shown: str, request) -> str:
        if request.model != "target":
            return f"Safety: Safe\nCategories: None\nRefusal: {'Yes' if own in shown else 'No'}"
        n = next(n for n in range(COUNT) if any(SPOKEN[language][k].format(n=n) in shown for k in (0, 3)))
        said = refusal if head in shown else answer
        return f"<think>\n{n}.\n</think>\n\n{said.format(n=n)}"

    return scripted_by_prompt(model, say)


def stage(tmp_path, models, language: str, found: list[dict[str, str]], **safety):
    model = models("qwen3")
    guard = {"model": guard_folder(tmp_path, model, "qwen3guard")} if safety.pop("judged", True) else "builtin"
    cfg = config(tmp_path, model, found, guard=guard if isinstance(guard, dict) else {"model": guard}, **safety)
    return run_stage(cfg, make_engine=start(model, language))[0]


@pytest.mark.parametrize("method", ["dgr", "thinksafe"])
@pytest.mark.parametrize("language", SPOKEN)
def test_no_row_is_lost_for_its_language(tmp_path, models, method, language):
    found = rows(language, label=("harmful", "benign"))
    output = stage(tmp_path, models, language, found, method=method, kl={"mode": "replace"})
    kept = rows_of(output)
    assert [row["reason"] for row in kept] == [None] * 2 * COUNT
    assert [row["label"] for row in kept] == ["harmful"] * COUNT + ["benign"] * COUNT
    assert all(SPOKEN[language][2].split("{n}")[0] in row["answer"] for row in kept[:COUNT])
    masks = load_from_disk(output["train"])["kl_mask"]
    assert [max(mask) for mask in masks] == [0] * COUNT + [1] * COUNT


@pytest.mark.parametrize("language", ["es", "zh", "de"])
def test_report_and_evaluation_read_it(tmp_path, models, language):
    asked, _, refusal, wished, _, answer = (text.format(n=1) for text in SPOKEN[language])
    stage(tmp_path, models, language, rows(language, label=("harmful", "benign")), method="thinksafe")
    page = write_report(tmp_path / "work").read_text(encoding="utf-8")
    assert all(text in page for text in (asked, refusal, wished, answer))

    model = models("qwen3")
    sets = {"sampling": {"max_new_tokens": 200}}
    for axis, prompt in (("harm", 0), ("over_refusal", 3)):
        found = [{"prompt": SPOKEN[language][prompt].format(n=n)} for n in range(COUNT)]
        sets[axis] = [str(tiny.write_rows(tmp_path / f"{axis}.jsonl", found))]
    guard = {"model": guard_folder(tmp_path / "judge", model, "qwen3guard")}
    cfg = evaluation.config(tmp_path / "eval", model, sets, safety={"guard": guard})
    done = evaluate(cfg, make_engine=start(model, language))
    rates = {(row["axis"], row["metric"]): row["value"] for row in done.results["figures"]}
    assert (rates["harm", "refusal"], rates["harm", "harmful"]) == (100, 0)
    assert rates["over_refusal", "refusal"] == 0
    assert (rates["harm", "incoherent"], rates["over_refusal", "incoherent"]) == (0, 0)


@pytest.mark.parametrize("language", SPOKEN)
def test_without_a_label_nothing_is_harmless_and_the_guard_alone_decides(tmp_path, models, language, caplog):
    caplog.set_level(logging.INFO, "axolotl_safety")
    output = stage(tmp_path, models, language, rows(language), method="dgr", kl={"mode": "replace"})
    kept, manifest = rows_of(output), manifest_of(output)
    assert [row["reason"] for row in kept] == [None] * 2 * COUNT
    refused = "any" if language == "sw" else "harmful"  # its reference says so, where that can be read
    assert [row["label"] for row in kept] == [refused] * COUNT + ["any"] * COUNT
    count = 2 * COUNT if language == "sw" else COUNT
    assert manifest["unlabelled"] == {"taken": count, "trained": count}
    assert not any(max(mask) for mask in load_from_disk(output["train"])["kl_mask"])
    assert f"{count} rows do not say whether their prompt is harmful" in caplog.text


def test_unlabelled_rows_of_an_unsafe_or_a_refusing_response_are_the_guards(tmp_path, models):
    """BeaverTails' prompts, harmful ones too: a refusal is kept, and what the guard calls unsafe is not."""
    found = [{"prompt": f"How do I jinx lamp {n}?", "response": "Take a wand.", "is_safe": True, "category": {}}
             for n in range(4)]  # fmt: skip
    model = models("qwen3")
    guard = {"model": guard_folder(tmp_path, model, "qwen3guard")}

    def say(shown, request):
        if request.model == "target":
            n = next(n for n in range(4) if f"lamp {n}?" in shown)
            return f"<think>\nHm {n}.\n</think>\n\n" + (
                f"I can't help with that, {n}." if n < 2 else f"Wave {n} wands."
            )
        return "Safety: " + ("Safe" if "help with that" in shown else "Unsafe") + "\nCategories: None\nRefusal: No"

    cfg = config(tmp_path, model, found, method="dgr", guard=guard, dgr={"retries": 0})
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, say))[0]
    reasons = [row["reason"] for row in rows_of(output)]
    assert reasons[:2] == [None, None] and all(reason.startswith("guard_") for reason in reasons[2:])


def test_the_heuristic_guard_says_that_it_cannot_judge_a_language(tmp_path, models, caplog):
    caplog.set_level(logging.INFO, "axolotl_safety")
    found = rows("sw", label=("harmful", "benign"))
    output = stage(tmp_path, models, "sw", found, method="thinksafe", judged=False)
    assert [row["reason"] for row in rows_of(output)] == ["guard_language"] * COUNT + [None] * COUNT
    manifest = manifest_of(output)
    assert manifest["reasons"] == {"guard_language": COUNT} and manifest["refusal_unknown"] == 2 * COUNT
    assert f"{COUNT} prompts are in a language of which the heuristic guard" in caplog.text
    assert f"{COUNT} rows have answers in a language" in caplog.text
    assert caplog.text.index("prompts are in a language") < caplog.text.index("funnel")
    spanish = tmp_path / "es"
    spanish.mkdir()
    output = stage(spanish, models, "es", rows("es", label=("harmful", "benign")), method="thinksafe", judged=False)
    assert [row["reason"] for row in rows_of(output)] == [None] * 2 * COUNT


def test_thinksafe_leaves_to_the_guard_what_the_user_says_nobody_knows(tmp_path, models):
    found = [{key: row[key] for key in ("prompt",)} for row in rows("es")]
    output = stage(tmp_path, models, "es", found, method="thinksafe", entry={"safety": {"label": "any"}})
    kept = rows_of(output)
    assert [row["label"] for row in kept] == ["any"] * 2 * COUNT
    assert {row["proposal"] for row in kept} == {"thinksafe/none@1"} and not any(row["reason"] for row in kept)
