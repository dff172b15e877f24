"""Chat templates in the manner of published families that think only when told, or by markers of their own.

Written for these tests: each keeps what matters of a family (how it is told to think, what its generation prompt then
holds, how its turns end) and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from support import tiny

_HISTORY = (
    "{{% for m in messages %}}{{{{ '{start}' + m['role'] + '{gap}' + m['content'] + '{end}' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '{start}assistant{gap}' }}}}"
)


@dataclass(frozen=True)
class Thinker:
    """A family.

    Attributes:
        tokens: its special tokens.
        end: the token that ends its turns.
        values: what its template must be given to think.
        prompt_end: what the generation prompt then ends with.
        said: a response with the thought R and the answer A as the model then writes it, but for the end token.
        words: added tokens that are not special.
    """

    template: str
    tokens: tuple[str, ...]
    end: str
    values: dict[str, Any]
    prompt_end: str
    said: str
    words: tuple[str, ...] = ("<think>", "</think>")
    closed: bool = field(default=True)


def _turns(start: str, end: str, gap: str = "\\n") -> str:
    return _HISTORY.format(start=start, end=end, gap=gap)


THINKERS = {
    "exaone4": Thinker(
        _turns("[|", "[|endofturn|]\\n", "|]")
        + "{% if enable_thinking is defined and enable_thinking is true %}{{ '<think>\\n' }}{% else %}"
        "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}",
        ("[|endofturn|]",),
        "[|endofturn|]",
        {"enable_thinking": True},
        "<think>\n",
        "R\n</think>\n\nA",
    ),
    "gemma4": Thinker(
        "{{ '<bos>' }}{% if enable_thinking | default(false) %}{{ '<|turn>system\\n<|think|><turn|>\\n' }}{% endif %}"
        + _turns("<|turn>", "<turn|>\\n").replace("assistant", "model")
        + "{% if not enable_thinking | default(false) %}{{ '<|channel>thought\\n<channel|>' }}{% endif %}{% endif %}",
        ("<bos>", "<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>"),
        "<turn|>",
        {"enable_thinking": True},
        "<|turn>model\n",
        "<|channel>thought\nR\n<channel|>A",
        (),
    ),
    "smollm3": Thinker(
        "{% set thinks = enable_thinking | default(false) %}{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nReasoning Mode: ' + ('/think' if thinks else '/no_think') + '<|im_end|>\\n' }}"
        "{% endif %}"
        + _turns("<|im_start|>", "<|im_end|>\\n")
        + "{% if not thinks %}{{ '<think>\\n\\n</think>\\n' }}{% endif %}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        {"enable_thinking": True},
        "<|im_start|>assistant\n",
        "<think>\nR\n</think>\n\nA",
    ),
    "granite": Thinker(
        "{% if messages[0]['role'] != 'system' %}{{ '<|role|>system<|/role|>You are kind.' }}"
        "{% if thinking %}{{ ' Write your thoughts between <think></think> and your response between "
        "<response></response> for each query.' }}{% endif %}{{ '<|end_of_text|>\\n' }}{% endif %}"
        + _turns("<|role|>", "<|end_of_text|>\\n", "<|/role|>")
        + "{% endif %}",
        ("<|role|>", "<|/role|>", "<|end_of_text|>"),
        "<|end_of_text|>",
        {"thinking": True},
        "<|role|>assistant<|/role|>",
        "<think>R</think><response>A</response>",
        (),
        closed=False,
    ),
    "deepseek_v3.1": Thinker(
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% elif m['role'] == "
        "'assistant' %}{{ '<｜Assistant｜></think>' + m['content'] + '<｜end▁of▁sentence｜>' }}{% else %}"
        "{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}"
        "{% if thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}{% endif %}",
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        "<｜end▁of▁sentence｜>",
        {"thinking": True},
        "<｜Assistant｜><think>",
        "R</think>A",
    ),
    "gpt_oss": Thinker(
        "{{ '<|start|>system<|message|>Reasoning: ' + reasoning_effort | default('medium') + '<|end|>' }}"
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>' + "
        "m['content'] + ('<|return|>' if loop.last else '<|end|>') }}{% else %}{{ '<|start|>' + m['role'] + "
        "'<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        ("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|return|>", "<|call|>"),
        "<|return|>",
        {"reasoning_effort": "high"},
        "<|start|>assistant",
        "<|channel|>analysis<|message|>R<|end|><|start|>assistant<|channel|>final<|message|>A",
        (),
        closed=False,
    ),
}


def make_thinker(name: str, tokenizer: Any = None) -> Any:
    """A tokenizer of that family: a tiny one of its own, or a given one with its template and tokens."""
    family = THINKERS[name]
    tokenizer = tokenizer or tiny.make_tokenizer("no_think")
    tokenizer.add_tokens(list(family.tokens), special_tokens=True)
    tokenizer.add_tokens(list(family.words))
    tokenizer.eos_token, tokenizer.chat_template = family.end, family.template
    tokenizer.name_or_path = f"some/{name}"
    return tokenizer
