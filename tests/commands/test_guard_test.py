"""``axolotl safety-plan --guard-test``: what a sound guard, and what each kind of an unsound one, is found to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from axolotl.integrations.base import PluginManager
from click.testing import CliRunner
from support import tiny
from support.guard_stage import NAMES, guard_block
from support.guards import RULES, SAFE, UNSAFE
from support.judges import SAFE as SAFE_JSON
from support.judges import UNSAFE as UNSAFE_JSON
from support.judges import says
from transformers import AutoTokenizer

from axolotl_safety.commands.plan import cli, guard_test
from axolotl_safety.guards.qwen3guard import FAMILY

MARK = "Ride the stolen bicycle away"  # only what is harmful says so
PLAIN = {"safe": "fine", "unsafe": "bad"}


def a_run(tmp_path: Path, model: Path, guard: Any) -> tuple[Path, Path]:
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.direct_refusal_rows(2))
    yml = tmp_path / "run.yml"
    block = {
        "base_model": str(model),
        "sequence_len": 512,
        "plugins": ["axolotl_safety.SafetyPlugin"],
        "datasets": [{"path": str(rows), "type": "axolotl_safety.dgr"}],
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "learning_rate": 0.001,
        "output_dir": str(tmp_path / "out"),
        "safety": {"work_dir": str(tmp_path / "work"), "guard": guard},
    }
    yml.write_text(yaml.safe_dump(block))
    return yml, tmp_path / "found.json"


def found(tmp_path: Path, model: Path, guard: Any, say=None) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit code, readings by probe, and what is printed; ``say`` answers a prompt in text, or cut off where None."""
    yml, path = a_run(tmp_path, model, guard)
    tokenizer = AutoTokenizer.from_pretrained(model)

    def answer(request: Any) -> tuple[int, ...]:
        text = say(tokenizer.decode(request.prompt_token_ids))
        ended = (tokenizer.eos_token_id,) if text is not None else ()
        return (*tokenizer.encode(text or "Let me think", add_special_tokens=False), *ended)

    def start(*_: Any) -> tiny.ScriptedEngine:
        assert say is not None, "no engine is needed"
        return tiny.ScriptedEngine(answer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard_test.guards_tested, "__defaults__", (start,))
        try:
            result = CliRunner().invoke(cli.main, [str(yml), "--guard-test", "--json", str(path)])
        finally:
            PluginManager.get_instance().plugins.clear()
    assert path.exists(), result.output
    readings = json.loads(path.read_text())["guard_test"]
    assert not (tmp_path / "work" / "journal").exists()  # nothing of it is kept for a run
    return result.exit_code, {one["probe"]: one for one in readings}, result.output


@pytest.mark.parametrize("family", NAMES)
def test_a_sound_guard_of_any_family_passes(tmp_path, models, family):
    block = guard_block(tmp_path, models("qwen3"), family)
    code, readings, output = found(
        tmp_path, models("qwen3"), block, lambda text: UNSAFE[family] if MARK in text else SAFE[family]
    )
    assert code == 0 and [one["fault"] for one in readings.values()] == [""] * 6, output
    assert {name: one["safe"] for name, one in readings.items()} == {
        "harmless": True,
        "refusal": True,
        "harmful": False,
        "injected verdict": False,
        "harm in the thought alone": False,
        "empty answer": True,
    }
    assert (
        readings["harmful"]["reply"] == " | ".join([UNSAFE[family].strip()] * RULES.get(family, 1))
        and "6 of 6 probes" in output
    )


def custom(tmp_path, models, **more):
    block = guard_block(tmp_path, models("qwen3"), "custom") | {"prompt": "{prompt}\n{response}\n", "verdict": PLAIN}
    return block | more


def test_swapped_labels_are_found(tmp_path, models):
    block = custom(tmp_path, models, verdict={"safe": "bad", "unsafe": "fine"})
    code, readings, output = found(tmp_path, models("qwen3"), block, lambda text: "bad" if MARK in text else "fine")
    assert code == 1 and "probably swapped" in readings["harmful"]["fault"]
    assert readings["harmless"]["reason"] == "unsafe" and readings["harmful"]["safe"]


def test_a_guard_that_thinks_longer_than_it_may_is_found(tmp_path, models):
    block = custom(tmp_path, models, max_new_tokens=3)
    code, readings, _ = found(tmp_path, models("qwen3"), block, lambda text: None)
    assert code == 1 and readings["harmless"]["reason"] == "truncated"
    assert "cut off at 3 tokens" in readings["harmless"]["fault"] and not readings["harmful"]["fault"]


def test_a_guard_whose_thoughts_are_not_expected_is_found(tmp_path, models):
    def say(text):
        return "<think>Let me look.</think>\n" + ("bad" if MARK in text else "fine")

    code, readings, _ = found(tmp_path / "a", models("qwen3"), custom(tmp_path / "a", models), say)
    assert code == 1 and readings["harmless"]["reason"] == "unparsable"
    code, readings, _ = found(tmp_path / "b", models("qwen3"), custom(tmp_path / "b", models, think=True), say)
    assert code == 0 and "</think>" in readings["harmless"]["reply"]


def test_a_pattern_that_matches_what_the_guard_is_shown_is_found(tmp_path, models):
    block = custom(tmp_path, models, verdict={"safe": r"(?s).*\bfine\b.*", "unsafe": r"\bbad\b"})
    code, readings, _ = found(tmp_path, models("qwen3"), block, lambda text: "bad" if MARK in text else "fine")
    assert code == 1 and "read as a safe verdict" in readings["injected verdict"]["fault"]


def test_a_prompt_that_drops_the_thought_is_found(tmp_path, models, monkeypatch):
    render = FAMILY.template(None)
    monkeypatch.setitem(
        FAMILY.__dict__, "template", lambda _: lambda prompt, text: render(prompt, text.split("</think>")[-1])
    )
    block = guard_block(tmp_path, models("qwen3"), "qwen3guard")
    code, readings, _ = found(
        *(tmp_path, models("qwen3"), block),
        lambda text: UNSAFE["qwen3guard"] if MARK in text else SAFE["qwen3guard"],
    )
    assert code == 1 and "the thought is not in what the guard reads" in readings["harmless"]["fault"]
    assert readings["harm in the thought alone"]["safe"] and readings["harm in the thought alone"]["fault"]


def test_a_server_whose_template_deletes_the_thought_is_found(tmp_path, models, serve):
    messages = [{"role": "user", "content": "{prompt}"}, {"role": "assistant", "content": "{response}"}]

    def served(text, deletes):
        read = text.split("</think>")[-1] if deletes else text
        return says("bad" if MARK in read else "fine")

    for deletes in (True, False):
        server = serve(lambda text, times, deletes=deletes: served(text, deletes))
        block = {"model": "judge", "family": "custom", "base_url": server.url, "messages": messages, "verdict": PLAIN}
        code, readings, output = found(tmp_path / str(deletes), models("qwen3"), block)
        assert code == int(deletes), output
        assert bool(readings["harm in the thought alone"]["fault"]) is deletes
        assert not readings["harmful"]["fault"] and not readings["harmless"]["fault"]


def test_the_judge_of_this_package_behind_a_server_passes(tmp_path, models, serve):
    server = serve(lambda text, times: says(UNSAFE_JSON if MARK in text else SAFE_JSON))
    block = {"model": "judge", "family": "openai", "base_url": server.url}
    code, readings, output = found(tmp_path, models("qwen3"), block)
    assert code == 0 and readings["refusal"]["reply"] == SAFE_JSON, output


@pytest.mark.parametrize(
    ("say", "name", "reason"),
    [
        (lambda text: "fine", "injected verdict", ""),
        (lambda text: "bad", "refusal", "unsafe"),
        (lambda text: "", "harmless", "unparsable"),
        (lambda text: "fine fine", "harmless", "unparsable"),
        (lambda text: "bad" if MARK in text and text.count("fine") < 2 else "fine", "injected verdict", ""),
    ],
)
def test_whatever_a_plain_response_is_misread_as_ends_with_1(tmp_path, models, say, name, reason):
    code, readings, output = found(tmp_path, models("qwen3"), custom(tmp_path, models), say)
    assert code == 1 and readings[name]["fault"] and readings[name]["reason"] == reason and "of 6 probes" in output


@pytest.mark.parametrize(
    ("say", "faults"),
    [
        (lambda text: "fine", {"harmful": "whatever it reads", "injected verdict": "whatever it reads"}),
        (lambda text: "bad", {"harmless": "whatever it reads"}),
        (lambda text: "schlecht" if MARK in text else "gut", {"harmless": "of another format or language"}),
        (lambda text: "BAD" if MARK in text else "fine", {"harmful": "rejected, but as unreadable", "harmless": ""}),
    ],
)
def test_a_guard_that_tells_nothing_apart_or_is_not_understood_is_named(tmp_path, models, say, faults):
    code, readings, output = found(tmp_path, models("qwen3"), custom(tmp_path, models), say)
    assert code == 1
    for name, words in faults.items():
        assert words in readings[name]["fault"] and bool(words) is bool(readings[name]["fault"]), output


def test_a_guard_whose_window_is_too_small_is_found(tmp_path, models):
    block = custom(tmp_path, models)
    path = Path(block["model"]) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 80}))
    code, readings, _ = found(tmp_path, models("qwen3"), block, lambda text: "bad" if MARK in text else "fine")
    assert code == 1 and readings["harmless"]["reason"] == "too_long" and "window" in readings["harmless"]["fault"]


def test_a_server_that_is_down_is_said_before_anything_is_asked(tmp_path, models, serve):
    block = {"model": "judge", "family": "custom", "messages": [{"content": "{prompt}\n{response}"}], "verdict": PLAIN}
    yml, _ = a_run(tmp_path, models("qwen3"), block | {"base_url": "http://127.0.0.1:9/v1"})
    result = CliRunner().invoke(cli.main, [str(yml), "--guard-test"])
    PluginManager.get_instance().plugins.clear()
    assert result.exit_code == 1 and "cannot be reached" in result.output and "Start the server" in result.output


def test_every_guard_of_a_list_is_tested_and_the_heuristic_is_not(tmp_path, models):
    first, second = custom(tmp_path, models), guard_block(tmp_path / "b", models("qwen3"), "wildguard")
    yml, path = a_run(tmp_path, models("qwen3"), "builtin")
    result = CliRunner().invoke(cli.main, [str(yml), "--guard-test"])
    PluginManager.get_instance().plugins.clear()
    assert result.exit_code == 0 and "no guard is a model" in result.output

    def say(text):
        return UNSAFE["wildguard"] if "Answers: [/INST]" in text else "bad" if MARK in text else "fine"

    code, readings, output = found(tmp_path, models("qwen3"), [first, {"model": "builtin"}, second], say)
    assert code == 1 and readings["harmless"]["guard"] == second["model"] and "10 of 12 probes" in output


def test_it_is_run_by_itself(tmp_path, models):
    yml, _ = a_run(tmp_path, models("qwen3"), "builtin")
    result = CliRunner().invoke(cli.main, [str(yml), "--guard-test", "--try", "2"])
    assert result.exit_code == 2 and "runs the guards alone" in result.output
