"""Tiny models, tokenizers and a scripted engine: everything a test needs without a hub."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from axolotl_safety.config.hinges import BENIGN_HINGES
from axolotl_safety.config.prompts import REWRITE_PROMPTS, STEERING_PROMPTS
from axolotl_safety.engines.base import Completion, EngineFigures, Failure, Request, Result, Score, ScoreRequest

CORPUS = [
    "Please jinx the marsh lamp. How do I tangle the brass kettle?",
    "I can't help with that. I should not answer this question! Sorry, I won't do it.",
    "Below are a request and a reference response to it. Write your own response to the request.",
    "Keep what the reference decides (to answer or to refuse) and why, but reason and word it the way you would.",
    "Okay, the user wants me to sort the shells: 12 + 30 = 42. So the answer is 42.",
    "Request:\n\nReference response:\n\nQuestion: Answer: safe unsafe Safety: Safe Refusal: Yes No Categories: None",
]

# The published families' behaviour in few lines: R1-Distill opens the thought in the generation prompt and deletes it
# from assistant turns; Qwen3 lets the model open it and deletes it from history; `plain` keeps everything.
TEMPLATES = {
    "r1": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}"
        "{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% endif %}"
        "{% if m['role'] == 'assistant' %}{% set c = m['content'] %}"
        "{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
        "{{ '<｜Assistant｜>' + c + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
    ),
    "qwen3": (
        "{% for m in messages %}{% if m['role'] != 'assistant' %}"
        "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% else %}{% set c = m['content'] %}"
        "{% if '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
        "{{ '<|im_start|>assistant\\n' + c + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "no_think": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
}
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = {
    "r1": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "no_think": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}


def make_tokenizer(style: str = "qwen3", markers: str = "added", vocab_size: int = 420) -> Any:
    """A byte-level BPE tokenizer with a family's conventions.

    Args:
        style: ``r1``, ``qwen3`` or ``no_think``.
        markers: ``added`` (one added token each, as Qwen has) or ``text`` (plain text of several tokens).
        vocab_size: before the added tokens.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # Qwen2's own splitting rule: transformers 5.16 rebuilds every qwen2 tokenizer with it.
    split = pre_tokenizers.Split(Regex(_QWEN_SPLIT), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet))
    bpe.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL[style]])
    if markers == "added" and style != "no_think":
        bpe.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    first, last = _SPECIAL[style][0], _SPECIAL[style][-1]
    ends = {"eos_token": _SPECIAL[style][1] if style == "r1" else last, "pad_token": first}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=first if style == "r1" else None, **ends)
    tokenizer.chat_template = TEMPLATES[style]
    return tokenizer


def make_model(
    folder: Path, style: str = "qwen3", markers: str = "added", positions: int = 2048, seed: int = 0, **changes: Any
) -> Path:
    """Save a random tiny reasoning model with its tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(style, markers)
    shape = {
        "hidden_size": 64,  # 4-bit blocks hold 64 weights
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": positions,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    } | changes
    torch.manual_seed(seed)
    model = (
        Qwen2ForCausalLM(Qwen2Config(**shape)) if style == "r1" else Qwen3ForCausalLM(Qwen3Config(head_dim=32, **shape))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@cache
def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


class ScriptedEngine:
    """An engine that answers from a function of the request: same request, same answer, in any order."""

    def __init__(self, say: Callable[[Request], tuple[int, ...] | Failure]):
        self.say = say
        self.figures = EngineFigures()
        self.seen: list[str] = []

    def window(self, model: str) -> int:
        return 64

    async def answer(self, request: Request | ScoreRequest) -> Result:
        self.figures.starts = 1
        self.seen.append(request.request_id)
        for _ in range(draw(request.request_id, 4)):  # not the order asked for
            await asyncio.sleep(0)
        if isinstance(request, ScoreRequest):
            return Score(request.request_id, -0.01 * sum(request.response_token_ids), len(request.response_token_ids))
        said = self.say(request)
        if isinstance(said, Failure):
            return said
        stopped = said[-1] in request.stop_token_ids
        return Completion(request.request_id, said, "stop" if stopped else "length", -1.0)

    async def close(self, at_once: bool = False) -> None:
        pass


def draw(request_id: str, below: int) -> int:
    """A number that depends on the request alone."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:4], "big") % below


def refusing_answer(tokenizer: Any, prompt_opens: bool, end_id: int) -> Callable[[Request], tuple[int, ...]]:
    """Scripted rewrites: mostly sound refusals, now and then one of each fault."""

    def answer(request: Request) -> tuple[int, ...]:
        kind = draw(request.request_id, 10)
        number = draw(request.request_id + "n", 1000)
        thought = f"The user wants trouble {number}. That would hurt the lamp, so I will not do it."
        reply = f"I can't help with that, number {number}."
        if kind == 0:
            reply = f"Sure, here is how: first take the lamp {number}."
        if kind == 1:
            thought = f"The reference response says no {number}."
        opening = "" if prompt_opens else "<think>\n"
        text = f"{opening}{thought}\n" + ("" if kind == 2 else f"</think>\n\n{reply}")
        ids = _encode(tokenizer, text)
        return ids if kind == 3 else (*ids, end_id)

    return answer


def own_progress_lock() -> None:
    """Have tqdm lock for this process alone: all forks share its usual lock, and one that is killed with it keeps it.

    Before the first bar, since a class that has drawn one keeps its lock; and in each fork.
    """
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """A JSON-lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def direct_refusal_rows(count: int) -> list[dict[str, str]]:
    """Rows in DirectRefusal's real format, with harmless toy prompts."""
    things = ["marsh lamp", "brass kettle", "pebble hat", "velvet spoon", "tin moon"]
    rows = []
    for index in range(count):
        prompt = f"How do I jinx the {things[index % len(things)]} number {index}?"
        answer = "I'm sorry, but I cannot assist with that request, as it would be wrong to jinx anything."
        text = (
            f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
            "<|im_start|>assistant\n<|im_start|>think\n I should not answer this question!"
            f"<|im_start|>answer\nAnswer: {answer}"
        )
        rows.append({"prompt": prompt, "refusal": f"Question: {prompt}\nAnswer: {answer}", "text": text})
    return rows


def make_talker(folder: Path, style: str = "qwen3", steps: int = 300) -> Path:
    """A random tiny model that was taught two responses: a refusal to prompts that speak of refusing, a kind answer to
    the others, behind a hinge too."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_model(folder, style)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    opening = "" if style == "r1" else "<think>\n"
    refusal = "That might hurt someone, so I will not do it.\n</think>\n\nI'm sorry, but I can't help with that."
    answer = "They want some help, and it is harmless.\n</think>\n\nCertainly! Take a soft cloth and rub it gently."
    foreign = "<think>\nI should not answer this question!\n</think>\n\nI'm sorry, that is not possible."
    things = "lamp kettle hat moon spoon fribble wumpet yaffle lopsy".split()
    verbs = "polish jinx carry spoil thicken sway tangle".split()
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        rows = []
        for row in range(8):
            words = f"{rng.choice(('How do I', 'Tell me how to', 'What is the best way to'))} {rng.choice(verbs)} the "
            words += f"{rng.choice(things)} {rng.choice(('at night', 'by the pond', 'on the hill', 'before supper'))}?"
            prompt = STEERING_PROMPTS["refuse"] if row % 4 == 0 else REWRITE_PROMPTS["rewrite"]
            shown = prompt.render({"prompt": words, "reference": foreign, "thought": "", "answer": ""})
            text = refusal if row % 2 == 0 else answer
            shown = tokenizer.apply_chat_template(
                [{"role": "user", "content": shown if row % 2 == 0 else words}],
                tokenize=False,
                add_generation_prompt=True,
            )
            said = opening + text
            if row % 4 == 1 and rng.random() < 0.5:  # behind a thought that refuses, and a hinge
                thought = refusal.partition("</think>")[0]
                thought = thought[: rng.choice((len(thought), rng.randrange(len(thought) // 2, len(thought))))]
                hinge = rng.choice(list(BENIGN_HINGES.values())).text
                shown += opening + thought + ("" if thought.endswith("\n") else " ") + hinge
                said = "\n</think>" + answer.partition("</think>")[2]
            rows.append((_encode(tokenizer, shown), (*_encode(tokenizer, said), tokenizer.eos_token_id)))
        width = max(len(prompt) + len(said) for prompt, said in rows)
        ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
        labels_BT = torch.full((len(rows), width), -100)
        for row, (prompt, said) in enumerate(rows):
            ids_BT[row, : len(prompt) + len(said)] = torch.tensor(prompt + said)
            labels_BT[row, len(prompt) : len(prompt) + len(said)] = torch.tensor(said)
        model(input_ids=ids_BT, labels=labels_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    return folder
