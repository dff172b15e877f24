"""Whether a tokenizer gives back the text that it was given."""

from __future__ import annotations

from axolotl_safety.util.errors import ModelError

from .tokenizer import TargetTokenizer

_PROBE = 'The quick brown fox, 12 + 30 = 42.\n\n  Two spaces, a "quote" and a tab\t.'


def check_round_trip(tokens: TargetTokenizer, texts: list[str], raw_tokenizer_file: str | None) -> None:
    """Refuse a tokenizer that changes text (transformers #45488: some Llama-class loads lose spaces).

    It is held against the checkpoint's ``tokenizer.json`` where there is one. The texts, a sample of what will be
    trained on, are never shown in a message.

    Raises:
        ModelError: with the fixed probe and what became of it.
    """
    if raw_tokenizer_file is not None:
        from tokenizers import Tokenizer

        raw = Tokenizer.from_file(raw_tokenizer_file)
        raw.no_truncation()
        raw.no_padding()
        for text in (_PROBE, *texts):
            if raw.encode(text, add_special_tokens=False).ids != tokens.encode(text):
                raise ModelError(
                    f"the tokenizer of {tokens.tokenizer.name_or_path!r}, loaded as "
                    f"{type(tokens.tokenizer).__name__}, gives other ids than its own tokenizer.json: "
                    f"{_PROBE!r} is {raw.encode(_PROBE, add_special_tokens=False).ids} in the file and "
                    f"{tokens.encode(_PROBE)} as loaded. Copy its tokenizer "
                    "files (without config.json) into a folder, set tokenizer_class to PreTrainedTokenizerFast in "
                    "tokenizer_config.json there, and name that folder as tokenizer_config in the YAML."
                )
    if tokens.decode(tokens.encode(_PROBE)) == _PROBE:
        return
    if any(tokens.decode(tokens.encode(text)) != text for text in texts):
        raise ModelError(
            f"the tokenizer of {tokens.tokenizer.name_or_path!r} does not give back the text it was given: "
            f"{_PROBE!r} becomes {tokens.decode(tokens.encode(_PROBE))!r}. What is trained would not be what the "
            "model produced; repair the tokenizer (tokenizer_class, normalizer, decoder) first."
        )
