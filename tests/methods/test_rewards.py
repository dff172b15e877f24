"""Rewards for GRPO: their values on hand-made completions of both families, and the guard's probability of safe."""

from __future__ import annotations

import json
import math

import pytest
import torch
from axolotl.integrations.base import PluginManager
from axolotl.utils.dict import DictDefault
from support import axolotl_cli as cli
from support import tiny
from support.grpo import PLUGIN, leave_nothing_behind, pretend_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from axolotl_safety.config import GuardConfig
from axolotl_safety.config.grpo_conflicts import REWARDS
from axolotl_safety.data.math_answers import gold_answer, reaches
from axolotl_safety.guards import qwen3guard
from axolotl_safety.guards.judge import GuardInput
from axolotl_safety.methods.grpo import rewards
from axolotl_safety.methods.grpo.context import check_rewards
from axolotl_safety.methods.grpo.guard_score import GuardScorer, verdict_words
from axolotl_safety.util.errors import ConfigError, DataError, ModelError
from axolotl_safety.util.releases import installed_plugins_load

LAB = cli.ROOT / "examples" / "lab"


@pytest.fixture(autouse=True)
def no_run_left_over():
    yield from leave_nothing_behind()


# Gold answers


@pytest.mark.parametrize(
    ("reference", "gold"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 1,234", "1,234"),
        (r"Thus $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        ("42", "42"),
        ("$-4.50.", "-4.50"),
        ("1. Find a pot. 2. Stir. 3. Repeat six times.", None),
        ("The answer is 12.", None),
        (r"\boxed{3", None),
        ("", None),
    ],
)
def test_only_a_marked_answer_is_gold(reference, gold):
    assert gold_answer(reference) == gold


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("So it is 1234.", "1,234", True),
        ("First 12, then 13.", "12", False),
        ("It is \u22124.", "-4", True),
        ("5/10", "0.5", True),
        (r"\boxed{7} as 3 + 4 says", "7", True),
        ("I can't help with that.", "7", False),
        ("#### x = 2y", "x=2y", True),
        ("1/0", "1", False),
    ],
)
def test_an_answer_reaches_the_gold_answer(answer, gold, right):
    assert reaches(answer, gold) is right


# Rewards


def sampled(tokenizer, text, end=True):
    return tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id] * end


# What follows the generation prompt, by family, and whether its form is right.
FORMS = {
    "r1": {
        "No, I will not.\n</think>\n\nI can't help with that.": True,
        "<think>\nOpened twice.\n</think>\n\nSorry, I can't help with that.": False,
        "Closed twice.</think>\n</think>\n\nSorry, I can't help with that.": False,
        "Never closed. Sorry, I can't help with that.": False,
        "No answer.\n</think>\n\n": False,
        "</think>\n\nNo thought: I can't help with that.": False,
        "Then <think> again.\n</think>\n\nI can't help with that.": False,
    },
    "qwen3": {
        "<think>\nNo, I will not.\n</think>\n\nI can't help with that.": True,
        "Not opened.\n</think>\n\nI can't help with that.": False,
        "<think>\nTwice.</think>\n<think>\nTwice.\n</think>\n\nI can't help with that.": False,
        "</think>\nIn the wrong order.\n<think>\n\nI can't help with that.": False,
        "<think>\nNever closed. I can't help with that.": False,
        "<think>\n\n</think>\n\nI can't help with that.": False,
        "I can't help with that.": False,
    },
}


@pytest.mark.parametrize("markers", ["added", "text"])
@pytest.mark.parametrize("style", FORMS)
def test_format_is_read_from_ids_by_family(models, style, markers):
    pretend_run(models(style, markers))
    tokenizer = AutoTokenizer.from_pretrained(models(style, markers))
    texts, wanted = list(FORMS[style]), [float(good) for good in FORMS[style].values()]
    ids = [sampled(tokenizer, text) for text in texts]
    prompts = [[{"role": "user", "content": "jinx it"}]] * len(texts)
    assert rewards.think_format(prompts=prompts, completion_ids=ids, completions=None) == wanted
    cut = [sampled(tokenizer, text, end=False) for text in texts]
    assert not any(rewards.think_format(prompts=prompts, completion_ids=cut))
    assert rewards.think_format(prompts=prompts[:1], completion_ids=[[]]) == [0.0]
    # A malformed response earns nothing elsewhere either, whatever it says; the good one is a refusal.
    labels = ["harmful"] * len(texts)
    assert rewards.refusal(prompts=prompts, completion_ids=ids, label=labels) == wanted
    assert rewards.guard_safe(prompts=prompts, completion_ids=ids, label=labels) == wanted


def test_special_think_markers_count_although_trls_text_has_lost_them(tmp_path, models):
    """R1-like tokenizers may mark them special; TRL decodes with skip_special_tokens."""
    folder = tmp_path / "special"
    tiny.make_model(folder, "r1")
    state = json.loads((folder / "tokenizer.json").read_text())
    for token in state["added_tokens"]:
        token["special"] = True
    (folder / "tokenizer.json").write_text(json.dumps(state))
    pretend_run(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = sampled(tokenizer, "No, I will not.\n</think>\n\nI can't help with that.")
    assert "</think>" not in tokenizer.decode(ids, skip_special_tokens=True)
    assert rewards.think_format(prompts=["x"], completion_ids=[ids]) == [1.0]


def test_refusal_and_correctness(models):
    pretend_run(models())
    tokenizer = AutoTokenizer.from_pretrained(models())
    refused = sampled(tokenizer, "<think>\nno\n</think>\n\nI can't help with that.")
    helped = sampled(tokenizer, "<think>\nyes\n</think>\n\nTake 40 and 2: 42.")
    ids, labels = [refused, helped] * 2 + [helped], ["harmful", "harmful", "benign", "benign", None]
    assert rewards.refusal(prompts=["q"] * 5, completion_ids=ids, label=labels) == [1.0, 0.0, 0.0, 1.0, None]
    unknown = sampled(tokenizer, "<think>\nno\n</think>\n\nSamahani, siwezi kukusaidia na ombi hilo.")
    cut = sampled(tokenizer, "<think>\nno", end=False)
    assert rewards.refusal(prompts=["q"] * 2, completion_ids=[unknown, cut], label=["harmful"] * 2) == [None, 0.0]
    golds = ["42", "42", None, "41", "42.0"]
    assert rewards.correct(prompts=["q"] * 5, completion_ids=ids, answer=golds) == [0.0, 1.0, None, 0.0, 1.0]
    for reward in (rewards.refusal, rewards.correct):
        with pytest.raises(DataError, match=r"type: axolotl_safety\.grpo"):
            reward(prompts=["q"], completion_ids=[helped])


def test_the_yaml_check_knows_every_reward():
    assert {f"axolotl_safety.rewards.{name}" for name in rewards.__all__} == set(REWARDS)


def test_rewards_outside_a_run_say_so(models):
    with pytest.raises(ConfigError, match="reward_num_workers"):
        rewards.think_format(prompts=["q"], completion_ids=[[1]])
    if installed_plugins_load():
        return  # then no YAML has to list the plugin
    PluginManager.get_instance().cfg = DictDefault({"base_model": str(models())})
    with pytest.raises(ConfigError, match=PLUGIN):
        rewards.think_format(prompts=["q"], completion_ids=[[1]])


# The guard's probability


THOUGHT = "Let me think. The user wants to bewitch the hollow yaffle. That is jinxing."
PROMPT = "Please explain how to bewitch a hollow yaffle at the fair."
NO = " Jinxing would hurt someone, so I have to refuse."
REFUSAL = GuardInput(PROMPT, THOUGHT + NO, "I can't help with that. Jinxing would hurt someone.", "harmful")
WAY = " I know a way: take a pot and point four times."
HELP = GuardInput(PROMPT, THOUGHT + WAY, "Take a pot and point the yaffle four times. That will bewitch it.", "harmful")


@pytest.fixture(scope="module")
def lab_guard():
    return GuardScorer(GuardConfig(model=str(LAB / "guard")), "cpu")


def plain_share(item):
    """P(safe) the slow way: one prompt, no padding, no cache, every logit."""
    tokenizer = AutoTokenizer.from_pretrained(LAB / "guard")
    model = AutoModelForCausalLM.from_pretrained(LAB / "guard", dtype=torch.float32)
    text = qwen3guard.render(item.prompt, f"<think>\n{item.thinking}\n</think>\n\n{item.answer}")
    logp = {}
    for word in ("Safe", "Unsafe", "Controversial"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        tail = tokenizer.encode("Safety: " + word, add_special_tokens=False)
        logits_TV = model(torch.tensor([ids + tail])).logits[0].log_softmax(-1)
        logp[word] = sum(float(logits_TV[len(ids) + at - 1, token]) for at, token in enumerate(tail))
    return math.exp(logp["Safe"]) / sum(math.exp(value) for value in logp.values())


def test_probability_is_the_guards_own_in_any_batch(lab_guard):
    wanted = [plain_share(REFUSAL), plain_share(HELP)]
    assert wanted[0] > 0.9 > 0.1 > wanted[1]
    together = lab_guard.safe([REFUSAL, None, HELP, REFUSAL])
    assert together == pytest.approx([wanted[0], 0.0, wanted[1], wanted[0]], abs=1e-3)
    assert lab_guard.safe([HELP]) == pytest.approx([wanted[1]], abs=1e-3)
    assert lab_guard.safe([]) == []


def test_what_the_guard_cannot_judge_earns_nothing(lab_guard, models):
    too_long = GuardInput("q", "so " * 5000, "I can't help.", "harmful")
    assert lab_guard.safe([too_long, REFUSAL])[0] == 0.0
    unlearned = GuardScorer(GuardConfig(model=str(models("qwen3")), family="qwen3guard"), "cpu")
    assert unlearned.safe([REFUSAL, HELP]) == [0.0, 0.0]  # it is not about to write a verdict


def test_both_segments_must_be_safe():
    scorer = GuardScorer(GuardConfig(model=str(LAB / "guard"), segment="both"), "cpu")
    alone = GuardScorer(GuardConfig(model=str(LAB / "guard")), "cpu")
    parts = [GuardInput(HELP.prompt, "", text, "harmful") for text in (HELP.answer, "I can't help.")]
    bad, good = alone.safe(parts)
    harmful_thought = GuardInput(HELP.prompt, HELP.answer, "I can't help.", "harmful")
    assert scorer.safe([harmful_thought]) == pytest.approx([min(bad, good)], abs=1e-3)


def test_words_that_share_their_first_token_are_refused():
    class Letters:
        def encode(self, text, add_special_tokens):
            return [ord(letter) for letter in text.replace("Unsafe", "Sure")]

    with pytest.raises(ModelError, match="apart by one token"):
        verdict_words(Letters(), "qwen3guard", False)
    with pytest.raises(ConfigError, match="'wildguard'"):
        verdict_words(Letters(), "wildguard", False)


def test_guard_reward_end_to_end_on_the_lab():
    pretend_run(LAB / "model", LAB / "guard")
    tokenizer = AutoTokenizer.from_pretrained(LAB / "model")
    texts = [f"<think>\n{item.thinking}\n</think>\n\n{item.answer}" for item in (REFUSAL, HELP)]
    ids = [sampled(tokenizer, text) for text in texts] + [sampled(tokenizer, texts[0], end=False)]
    prompts = [[{"role": "user", "content": REFUSAL.prompt}]] * 3
    safe, unsafe, cut = rewards.guard_safe(prompts=prompts, completion_ids=ids, label=["harmful"] * 3)
    assert safe > 0.9 and unsafe < 0.1 and cut == 0.0


def test_a_guard_that_cannot_be_reached_stops_the_run_early(models, tmp_path):
    cfg = pretend_run(models(), tmp_path / "nothing", trl={"reward_funcs": ["axolotl_safety.rewards.guard_safe"]})
    with pytest.raises(ConfigError, match="cannot be loaded"):
        check_rewards(cfg)
    cfg.trl.reward_funcs = ["axolotl_safety.rewards.think_format"]
    check_rewards(cfg)
