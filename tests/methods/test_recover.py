"""Recovery rows: the thought that went wrong, where it is cut, what is masked, and what is trained behind it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from axolotl.utils.dict import DictDefault
from datasets import load_from_disk
from support import real, tiny
from support.stage import config, manifest_of, rows_of, safechain_rows, scripted_by_prompt
from transformers import AutoTokenizer

from axolotl_safety.commands.plan.figures import Hardware
from axolotl_safety.commands.plan.plan import make_plan
from axolotl_safety.config import RecoverConfig, SafetyConfig
from axolotl_safety.config.hinges import BENIGN_HINGES, HARMFUL_HINGES, resolve_hinge
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.data.types import IGNORE, Outcome
from axolotl_safety.methods import recover
from axolotl_safety.methods.recover import RECOVER, cut
from axolotl_safety.pipeline.inputs import stage_inputs
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.pipeline.writer import training_row
from axolotl_safety.util.errors import NothingAccepted

DECIDE, HARMLESS = HARMFUL_HINGES["decide"].text, BENIGN_HINGES["harmless"].text
STEERED = "You should refuse"
COMPLY = "The user wants to jinx 灯 🏮 lamps. I know a way: take a feather and point, case {n}."
SUSPECT = "The user wants to polish the lamp. That sounds bad, so I have to say no, case {n}."


def turning(shown: str, request: Any) -> str:
    """Does what it is asked, refuses where it is steered, and goes where a hinge points."""
    n = tiny.draw(request.request_id, 1000)
    if shown.endswith(DECIDE):
        return f"\n</think>\n\nI can't help with that, case {n}."
    if shown.endswith(HARMLESS):
        return f" A soft cloth will do.\n</think>\n\nTake a soft cloth and rub it, case {n}."
    if STEERED in shown:
        return f"<think>\n{SUSPECT.format(n=n)}\n</think>\n\nI can't help with that, case {n}."
    return f"<think>\n{COMPLY.format(n=n)}\n</think>\n\nTake a feather and point, case {n}."


def rambling(shown: str, request: Any) -> str:
    """Likewise, behind a long beginning of the thought."""
    words = " ".join(f"lamp {n}" for n in range(90))
    return turning(shown, request).replace("<think>\n", f"<think>\n{words} ")


def made(tmp_path, model, style="qwen3", say=turning, rows=None, **safety):
    """The outcome of a stage, its rows, and every completion that was asked for, by id."""
    asked: dict[str, tuple[Any, tuple[int, ...]]] = {}

    def answer(shown: str, request: Any) -> str:
        said = say(shown, request)
        said = said.removeprefix("<think>\n") if style == "r1" else said
        asked[request.request_id] = (request, tuple(tokenizer.encode(said, add_special_tokens=False)))
        return said

    tokenizer = AutoTokenizer.from_pretrained(model)
    going_on = {"closed": 0.0, "hinges": ["decide", "refuse"], "benign_hinges": ["harmless", "help"]}
    safety["recover"] = going_on | safety.get("recover", {})
    rows = safechain_rows(24) if rows is None else rows
    cfg = config(tmp_path, model, rows, method="recover", top={"sequence_len": 1024}, **safety)
    output = run_stage(cfg, make_engine=scripted_by_prompt(model, answer))[0]
    return output, rows_of(output), asked, tokenizer


@pytest.mark.parametrize(("style", "markers"), [("qwen3", "added"), ("r1", "added"), ("r1", "text"), ("qwen3", "text")])
def test_the_thought_is_masked_to_the_token_and_the_way_back_is_trained(tmp_path, models, style, markers):
    exact(tmp_path, models(style, markers), style)


@real.needs_tokenizers
@pytest.mark.parametrize(("name", "style"), [("r1-distill-qwen", "r1"), ("qwen3", "qwen3")])
def test_so_it_is_on_published_tokenizers(tmp_path, name, style):
    exact(tmp_path, real.make_model(name, tmp_path / name), style)


def exact(tmp_path, model, style):
    """Every row of a stage to the token: what is masked, what is trained, and what was asked for it."""
    output, rows, asked, tokenizer = made(tmp_path, model, style)
    assert output["rows"] == 24 and {row["status"] for row in rows} == {"accepted"}
    table = load_from_disk(output["train"])
    for row, trained in zip(rows, table, strict=True):
        harmful = row["label"] == "harmful"
        hinge = DECIDE if harmful else HARMLESS
        raw = tokenizer.apply_chat_template([{"role": "user", "content": row["prompt"]}], add_generation_prompt=True)
        raw = list(raw["input_ids"] if hasattr(raw, "keys") else raw)
        (thought, said), (continued, rest) = (asked[request_id] for request_id in row["request_ids"])
        begun = row["prompt_token_ids"][len(raw) :]
        # The raw prompt, and behind it the very tokens that the model had written.
        assert row["prompt_token_ids"][: len(raw)] == raw and len(begun) == row["begun_tokens"] > 0
        assert begun == list(said[: len(begun)]) and len(begun) < len(said)
        assert (STEERED in tokenizer.decode(thought.prompt_token_ids)) == (not harmful)
        # The model went on behind the same beginning and the hinge, which are the row's.
        went_on = list(continued.prompt_token_ids)
        length = len(row["response_token_ids"]) - len(rest) - 1
        hinge_ids = row["response_token_ids"][:length]
        assert went_on[-length:] == hinge_ids and went_on[:-length][-len(begun) :] == begun
        assert tokenizer.decode(hinge_ids).strip() == hinge
        assert (STEERED in tokenizer.decode(went_on)) == harmful and STEERED not in tokenizer.decode(
            trained["input_ids"]
        )
        assert row["response_token_ids"] == [*hinge_ids, *rest, tokenizer.eos_token_id]
        # Labels on hinge and continuation alone.
        assert trained["input_ids"] == row["prompt_token_ids"] + row["response_token_ids"]
        assert trained["labels"] == [IGNORE] * len(row["prompt_token_ids"]) + row["response_token_ids"]
        whole = tokenizer.decode(trained["input_ids"])
        assert whole.count("</think>") == 1 and "\ufffd" not in tokenizer.decode(begun)
        # What is checked, judged and shown is what is trained.
        assert row["thinking"].startswith(hinge) and "case" not in row["thinking"]
        assert row["answer"].startswith("I can't" if harmful else "Take a soft cloth")
    wholes = [row for row in rows if "case" in tokenizer.decode(row["prompt_token_ids"])]
    assert 4 <= len(wholes) <= 20  # about half keep the whole thought


def test_it_is_a_stage_like_any_other(tmp_path, models):
    model = models("qwen3")
    output, rows, asked, _ = made(tmp_path, model)
    manifest = manifest_of(output)
    assert manifest["method"] == "recover" and manifest["recover"]["hinges"] == ["decide", "refuse"]
    assert manifest["funnel"]["asked"] == len(asked) == 48 and manifest["counts"]["generated"] == 48
    names = {"recover/thought/none@1", "recover/thought/refuse@1", "recover/decide@1", "recover/harmless@1"}
    assert set(manifest["rungs"]) == names <= set(manifest["prompts"])
    again, _, asked_again, _ = made(tmp_path, model)
    assert again["hash"] == output["hash"] and not asked_again
    other, *_ = made(tmp_path, model, recover={"whole": 0.0, "closed": 0.0})
    assert other["hash"] != output["hash"]


def test_what_did_not_go_wrong_needs_no_way_back(tmp_path, models):
    def good(shown: str, request: Any) -> str:
        refuses = "jinx" in shown and tiny.draw(request.request_id + "r", 4) > 0
        if not refuses or shown.endswith((DECIDE, HARMLESS)):
            return turning(shown.replace(STEERED, ""), request)
        return "<think>\nNo good.\n</think>\n\nI can't help with that."

    output, rows, _, _ = made(tmp_path, models("qwen3"), say=good, recover={"attempts": 2})
    benign = [row for row in rows if row["label"] == "benign"]
    assert {row["reason"] for row in benign} == {"nothing_to_recover"} and {row["attempts"] for row in benign} == {2}
    lost = [row for row in rows if row["label"] == "harmful" and row["status"] == "rejected"]
    assert 0 < len(lost) < 12 and {row["reason"] for row in lost} == {"nothing_to_recover"}
    assert all(row["candidate_reasons"] == ["nothing_to_recover"] * 2 and not row["begun_tokens"] for row in lost)
    assert manifest_of(output)["reasons"] == {"nothing_to_recover": 12 + len(lost)}


def test_hinges_are_climbed_until_one_turns_the_thought(tmp_path, models):
    def stubborn(shown: str, request: Any) -> str:
        if shown.endswith("Wait."):
            return f" {COMPLY.format(n=1)}\n</think>\n\nTake a feather."
        if shown.endswith("Stop and think."):  # never comes to an end
            return " Hm" * 600
        return turning(shown, request)

    block = {"hinges": ["wait", "Stop and think.", "decide"], "attempts": 2, "sampling": {"max_new_tokens": 100}}
    _, rows, _, _ = made(tmp_path, models("qwen3"), say=stubborn, recover=block)
    literal = resolve_hinge("Stop and think.", HARMFUL_HINGES).label
    for row in rows[1::2]:
        assert row["candidate_reasons"] == ["", *["not_refused"] * 2, *["unclosed_think"] * 2, ""]
        assert row["candidate_proposals"][1:] == [
            *["recover/wait@1"] * 2,
            *[f"recover/{literal}"] * 2,
            "recover/decide@1",
        ]
        assert row["proposal"] == "recover/decide@1" and row["nll_accepted"] is not None


@pytest.mark.parametrize(("style", "markers"), [("qwen3", "added"), ("r1", "text")])
def test_the_last_hinge_closes_the_thought_and_begins_the_answer(tmp_path, models, style, markers):
    def ends_at_once(shown: str, request: Any) -> str:
        if shown.endswith(DECIDE):
            return ""
        if shown.endswith("</think>\n\nI'm sorry, but I can't"):
            return f" do that, case {tiny.draw(request.request_id, 1000)}."
        return turning(shown, request)

    model = models(style, markers)
    _, rows, _, tokenizer = made(tmp_path, model, style, say=ends_at_once, recover={"attempts": 1})
    for row in rows[1::2]:
        assert row["candidate_reasons"] == ["", "unclosed_think", ""] and row["proposal"] == "recover/refuse@1"
        assert row["thinking"] == DECIDE and row["answer"].startswith("I'm sorry, but I can't do that, case")
        trained = tokenizer.decode(row["response_token_ids"])
        assert trained.strip().startswith(f"{DECIDE}\n</think>\n\nI'm sorry, but I can't do that, case")
        assert tokenizer.decode(row["prompt_token_ids"]).count("</think>") == 0


@pytest.mark.parametrize(("style", "markers"), [("qwen3", "added"), ("r1", "added"), ("r1", "text")])
def test_a_closed_thought_is_turned_in_the_answer(tmp_path, models, style, markers):
    model = models(style, markers)

    def closed(shown: str, request: Any) -> str:
        said = " do that." if shown.endswith("I'm sorry, but I can't") else turning(shown, request)
        return said.replace("do that.", f"do that, case {tiny.draw(request.request_id, 1000)}.")

    _, rows, asked, tokenizer = made(tmp_path, model, style, say=closed, recover={"whole": 0.0, "closed": 1.0})
    assert {row["status"] for row in rows} == {"accepted"}
    for row in rows[1::2]:
        said = asked[row["request_ids"][0]][1]
        begun = row["prompt_token_ids"][-row["begun_tokens"] :]
        assert begun == list(said[: len(begun)])
        text = tokenizer.decode(begun)
        ready = text.endswith("\n</think>\n\n")
        assert ready or "\n</think>\n\nTake" in text or text.endswith("\n</think>\n\nT")
        came = tokenizer.decode(row["response_token_ids"][:-1])
        assert came.removeprefix("" if ready else "\n\n").startswith("I'm sorry, but I can't do that, case")
        assert row["thinking"] == "" and row["proposal"] == "recover/refuse@1" and len(row["request_ids"]) == 2
        assert row["answer"].startswith("I'm sorry, but I can't do that, case")
    ready = [tokenizer.decode(row["prompt_token_ids"]).endswith("\n</think>\n\n") for row in rows[1::2]]
    assert 0 < sum(ready) < len(ready)  # every other answer has begun
    # No hinge of a benign prompt's begins an answer.
    assert all("</think>" not in tokenizer.decode(row["prompt_token_ids"]) for row in rows[::2])


@pytest.mark.parametrize(("style", "markers"), [("qwen3", "added"), ("r1", "added"), ("r1", "text"), ("qwen3", "text")])
@pytest.mark.parametrize("closed", [0.0, 1.0])
def test_a_restart_is_the_models_whole_response_behind_the_beginning(tmp_path, models, style, markers, closed):
    block = {"hinges": "again", "benign_hinges": "again", "whole": 0.0, "closed": closed}
    _, rows, asked, tokenizer = made(tmp_path, models(style, markers), style, recover=block)
    assert {row["status"] for row in rows} == {"accepted"}
    again = HARMFUL_HINGES["again"].text
    for row in rows:
        harmful = row["label"] == "harmful"
        (thought, said), (whole, given) = (asked[request_id] for request_id in row["request_ids"])
        begun = row["prompt_token_ids"][-row["begun_tokens"] :]
        assert begun == list(said[: len(begun)])
        # It was asked without the beginning, harmful prompts under steering, and given with a thought of its own.
        assert (STEERED in tokenizer.decode(whole.prompt_token_ids)) == harmful
        assert tokenizer.decode(whole.prompt_token_ids).rstrip().endswith(("assistant", "<think>", "<｜Assistant｜>"))
        trained = tokenizer.decode(row["response_token_ids"][:-1])
        assert row["response_token_ids"][-1] == tokenizer.eos_token_id
        own = tokenizer.decode(list(given)).removeprefix("<think>").lstrip()
        if closed:
            assert trained.lstrip() == own.partition("</think>")[2].lstrip() == row["answer"] and not row["thinking"]
        else:
            assert trained == f"{'' if tokenizer.decode(begun)[-1].isspace() else ' '}{again}\n{own}"
            assert row["thinking"].startswith(f"{again}\n") and row["thinking"] in trained
        ids = row["response_token_ids"]
        assert ids[-8:-1] == list(given)[-7:]  # its very tokens
        assert tokenizer.decode(row["prompt_token_ids"] + ids).count("</think>") == 1


def without_blanks(shown: str, request: Any) -> str:
    """As DeepSeek V3.1, Gemma 4 and gpt-oss do: the answer directly behind the marker."""
    said = " do that." if shown.endswith("I'm sorry, but I can't") else turning(shown, request)
    return said.replace("\n</think>\n\n", "</think>")


@pytest.mark.parametrize("hinge", ["again", "refuse"])
@pytest.mark.parametrize(("style", "markers"), [("qwen3", "added"), ("r1", "text")])
def test_an_answer_follows_its_marker_as_the_model_writes_it(tmp_path, models, hinge, style, markers):
    block = {"hinges": hinge, "whole": 0.0, "closed": 1.0}
    rows = safechain_rows(24)[1::2]
    _, rows, _, tokenizer = made(
        tmp_path, models(style, markers), style, without_blanks, rows, recover=block, choice="lowest_nll"
    )
    assert {row["status"] for row in rows} == {"accepted"}
    begun = [tokenizer.decode(row["prompt_token_ids"]).partition("</think>")[2] for row in rows]
    assert "" in begun and any(begun)
    for row, before in zip(rows, begun, strict=True):
        trained = tokenizer.decode(row["response_token_ids"])
        assert trained.startswith("I" if not before or before[-1].isspace() else "\n\nI")
        # What stands before it is shown whole, the answer that had begun too.
        assert row["reference_answer"] == before.strip() and "I know a way" in row["reference_thinking"]


def test_what_shares_a_token_with_a_marker_is_encoded_anew(models):
    tokenizer = AutoTokenizer.from_pretrained(models("qwen3", "text"))
    tokenizer.add_tokens(["><", ">Th"])  # Qwen's and GPT-2's vocabularies hold such pieces
    tokens = TargetTokenizer(tokenizer, (tokenizer.eos_token_id,))
    ctx, end = SimpleNamespace(tokens=tokens), tokenizer.eos_token_id
    thought, answer = "They ask.", "<response>A feather.</response>"
    whole = (*tokens.encode(f"<think>{thought}</think>{answer}"), end)
    assert tokens.decode([whole[tokens.thought_length(whole) - 1]]) == "><"
    assert recover.own_ids(ctx, whole, closed=True) == (*tokens.encode(answer), end)
    assert recover.own_ids(ctx, whole, closed=False) == (*tokens.encode(f"{thought}</think>{answer}"), end)
    # What shares none is kept as it was written, however it would be encoded.
    spelt = tuple(index for letter in "They" for index in tokens.encode(letter))
    assert spelt != tuple(tokens.encode("They"))
    rest = (*tokens.encode("\n</think>\n\n"), *spelt, end)
    assert recover.own_ids(ctx, (*tokens.encode("<think>\n"), *spelt, *rest), closed=False) == (*spelt, *rest)
    assert recover.own_ids(ctx, (*tokens.encode("<think>\n"), *spelt, *rest), closed=True) == (*spelt, end)


def test_a_restart_in_the_answer_needs_room_for_the_answer_alone(tmp_path, models):
    block = {"recover": {"whole": 0.0, "closed": 1.0, "hinges": "again", "attempts": 1}}
    block |= {"sampling": {"max_new_tokens": 800}}
    _, rows, asked, _ = made(tmp_path, models("qwen3"), say=rambling, rows=safechain_rows(8)[1::2], **block)
    assert {row["status"] for row in rows} == {"accepted"}
    for row in rows:
        assert len(row["prompt_token_ids"]) + len(asked[row["request_ids"][1]][1]) > 1024
        assert len(row["prompt_token_ids"] + row["response_token_ids"]) <= 1024


def test_the_same_hinge_behind_other_prompts_has_another_name(tmp_path, models):
    custom = "Wait. Let me look at it once more."
    for hinge in ("again", custom):
        block = {"hinges": hinge, "benign_hinges": hinge, "whole": 0.0, "closed": 0.0, "attempts": 1}
        section = SafetyConfig.model_validate({"recover": block})
        label = resolve_hinge(hinge, BENIGN_HINGES).label
        prompts = {name: prompt.label for name, prompt in RECOVER.prompts(section).items()}
        assert prompts[f"recover/{label}"] == "refuse@1" and prompts[f"recover/{label}/none@1"] == "none@1"
    output, rows, _, _ = made(tmp_path, models("qwen3"), rows=safechain_rows(4), recover=block | {"hinges": "again",
                              "benign_hinges": "again"})  # fmt: skip
    assert [row["proposal"] for row in rows] == ["recover/again@1/none@1", "recover/again@1"] * 2
    assert set(manifest_of(output)["rungs"]) <= set(manifest_of(output)["prompts"])


def test_a_sentence_without_blanks_is_a_hinge():
    for text in ("等一下，这会伤害别人。", "待って、これは人を傷つける。", "รอก่อน"):
        assert resolve_hinge(text, HARMFUL_HINGES).text == text


def test_a_restart_that_leaves_no_room_is_a_counted_reject(tmp_path, models):
    block = {"recover": {"whole": 1.0, "closed": 0.0, "hinges": "again", "attempts": 1}}
    block |= {"sampling": {"max_new_tokens": 800}}
    output, rows, _, _ = made(tmp_path, models("qwen3"), say=rambling, **block)
    assert {row["reason"] for row in rows[1::2]} == {"too_long"} and output["rows"] == 12
    assert all(len(row["prompt_token_ids"] + row["response_token_ids"]) <= 1024 for row in rows[::2])


def test_a_way_back_must_be_sound(tmp_path, models):
    def helps_all_the_same(shown: str, request: Any) -> str:
        if shown.endswith(DECIDE):
            return "\n</think>\n\nTake a feather and point."
        return turning(shown, request)

    output, rows, _, _ = made(
        tmp_path, models("qwen3"), say=helps_all_the_same, recover={"attempts": 1, "hinges": "decide"}
    )
    assert {row["reason"] for row in rows[1::2]} == {"not_refused"} and output["rows"] == 12
    with pytest.raises(NothingAccepted, match="not_refused"):
        made(
            tmp_path / "2",
            models("qwen3"),
            say=helps_all_the_same,
            rows=safechain_rows(24)[1::2],
            recover={"hinges": "decide"},
        )


def test_a_thought_that_leaves_no_room_is_a_counted_reject(tmp_path, models):
    def long(shown: str, request: Any) -> str:
        if shown.endswith((DECIDE, HARMLESS)) or STEERED in shown:
            return turning(shown, request)
        words = " ".join(f"lamp {n}" for n in range(170))
        return f"<think>\n{words}\n</think>\n\nTake a feather and point."

    block = {"recover": {"whole": 1.0, "closed": 0.0}, "sampling": {"max_new_tokens": 980}}
    output, rows, _, _ = made(tmp_path, models("qwen3"), say=long, **block)
    assert {row["reason"] for row in rows[1::2]} == {"prompt_too_long"} and output["rows"] == 12


def response(tokens, text):
    return tuple(tokens.encode(f"<think>\n{text}\n</think>\n\nTake a feather."))


@pytest.fixture
def tokens(tmp_path, models):
    return stage_inputs(
        cfg := config(tmp_path, models("qwen3"), safechain_rows(2), method="recover"), _section(cfg)
    ).tokens


def _section(cfg):
    return SafetyConfig.model_validate(cfg.safety.to_dict())


def places(tokens, ids, **block):
    """Where a hundred rows are cut."""
    found = []
    for seed in range(100):
        ctx = SimpleNamespace(config=RecoverConfig(**{"closed": 0.0} | block), seed=seed, tokens=tokens)
        begun = cut(ctx, SimpleNamespace(example=SimpleNamespace(row_id="r")), ids)
        assert (
            begun == ids[: len(begun)] and cut(ctx, SimpleNamespace(example=SimpleNamespace(row_id="r")), ids) == begun
        )
        found.append(len(begun))
    return found


def test_cuts_are_drawn_from_the_later_part_or_keep_the_whole(tokens):
    ids = response(tokens, "Let me see. I know a way: take a feather and point at it three times.")
    start, end = tokens.thought_span(ids)
    blank = len(tokens.encode("\n"))
    late = places(tokens, ids, whole=0.0)
    assert min(late) >= start + (end - start) // 2 and max(late) < end and len(set(late)) > 5
    anywhere = places(tokens, ids, whole=0.0, cut_from=0.0)
    assert min(anywhere) < start + (end - start) // 4
    # Whole thoughts end in the blank space before the marker, as they were written, or without it.
    assert set(places(tokens, ids, whole=1.0)) == {end, end - blank}
    mixed = places(tokens, ids, whole=0.5)
    assert 30 <= sum(place >= end - blank for place in mixed) <= 75


def test_no_character_is_cut_through(tokens):
    ids = response(tokens, "🏮灯🧹" * 10)
    cuts = places(tokens, ids, whole=0.0, cut_from=0.0)
    assert len(set(cuts)) > 5
    assert all("\ufffd" not in tokens.decode(list(ids[:place])) for place in cuts)


def test_a_thought_of_one_token_is_kept(tokens):
    ids = response(tokens, "I")
    start, _ = tokens.thought_span(ids)
    assert set(places(tokens, ids, whole=0.0)) <= {start + 1, start + 2}


def test_kl_leaves_the_way_back_to_imitation():
    row = Outcome("r", 0, "s", "p", "benign", "accepted", prompt_ids=(1, 2), response_ids=(3, 4))
    assert training_row(row, kl=True)[2].tolist() == [0, 0, 1, 1]
    assert training_row(replace(row, begun_tokens=1), kl=True)[2].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("hinge", "benign_hinge"), [("decide", "help"), ("again", "again")])
def test_a_plan_counts_thoughts_and_what_follows_them(tmp_path, models, hinge, benign_hinge):
    block = {"attempts": 2, "hinges": hinge, "benign_hinges": benign_hinge}
    cfg = config(tmp_path, models("qwen3"), safechain_rows(20), method="recover", recover=block)
    # The same rows under another method are rows of their own.
    cfg.datasets += [DictDefault({"path": cfg.datasets[0].path, "type": "axolotl_safety.thinksafe"})]
    inputs = stage_inputs(cfg, _section(cfg))
    plan = make_plan(cfg, inputs, inputs.open_journals(read_only=True), Hardware(()))
    phases = {phase.title: phase.requests for phase in plan.load.phases}
    assert phases["recover/thought/none@1, thought 1"] == 10 == phases["recover/thought/refuse@1, thought 1"]
    assert phases["recover/thought/none@1, thought 2"] == pytest.approx(5)
    # One thought in four is never found; what follows is asked for the others.
    harmful, benign = f"recover/{hinge}@1", "recover/help@1" if benign_hinge == "help" else "recover/again@1/none@1"
    assert phases[f"{harmful}, attempt 1"] == pytest.approx(7.5) == phases[f"{benign}, attempt 1"]
    assert phases[f"{harmful}, attempt 2"] == pytest.approx(3.75)
    recover, thinksafe = plan.load.entries
    assert recover.accepted == pytest.approx(20 * 0.75 * 0.75)
    assert thinksafe.accepted == pytest.approx(10 * (1 - 0.15**2) + 10 * (1 - 0.1**2))
    assert phases["thinksafe/refuse@1, attempt 1"] == 10


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"hinges": ["wiat"]}, "no hinge is named 'wiat'. Named hinges: again, wait, harm, decide, refuse"),
        ({"benign_hinges": ["decide"]}, "Named hinges: again, harmless, help"),
        ({"hinges": []}, "at least one hinge"),
        ({"hinges": ["wait", "wait"]}, "each only once"),
        ({"hinges": "so " * 200}, "599 characters, where 400 are allowed"),
        ({"prompt": "none"}, "nothing would steer"),
        ({"prompt": "refsue"}, "no prompt is named"),
        ({"whole": 1.5}, "less than or equal to 1"),
        ({"cut_from": 1.0}, "less than 1"),
        ({"whole": 0.8}, "whole 0.8 and closed 0.3 are shares of the rows, above 1 together"),
    ],
)
def test_blocks_that_cannot_work(block, words):
    with pytest.raises(ValueError, match=words):
        SafetyConfig.model_validate({"recover": block})
