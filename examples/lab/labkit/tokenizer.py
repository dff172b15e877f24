"""A byte-level BPE tokenizer with Qwen3's chat markup."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

VOCABULARY = 1536
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINK_MARKS = ("<think>", "</think>")

# Like Qwen3's: a system turn is kept, and a trace is removed from assistant turns before the last user turn.
CHAT_TEMPLATE = """\
{%- set last = namespace(user=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' %}
{%- if loop.index0 < last.user and '</think>' in content %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- elif message.role not in ('user', 'system') %}
{{- raise_exception('unknown role: ' + message.role) }}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


def build_tokenizer(texts: Iterable[str], folder: Path) -> PreTrainedTokenizerBase:
    """Train the tokenizer on ``texts``, save it, and return it as loaded again from ``folder``."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    marks = [AddedToken(text, special=True, normalized=False) for text in (PAD, START, END)]
    marks += [AddedToken(text, special=False, normalized=False) for text in THINK_MARKS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(marks),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_special_tokens(marks[:3])
    core.add_tokens(marks[3:])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def chat_text(prompt: str) -> str:
    """What the chat template renders for one user message with the generation prompt."""
    return f"{START}user\n{prompt}{END}\n{START}assistant\n"


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of ``text`` and nothing else."""
    return tokenizer.encode(text, add_special_tokens=False)
