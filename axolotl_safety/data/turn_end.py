"""Where a turn ends: the token that the chat template writes there, held against what the model's files say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from axolotl_safety.util.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from .tokenizer import TargetTokenizer

LOG = logging.getLogger(__name__)
_SAID = "axolotl safety probe"
_EOS, _EOT = "special_tokens.eos_token", "eot_tokens"


def behind_response(render: Callable[..., str]) -> str:
    """What a chat template writes behind what the assistant says in the last turn; empty if it takes no such turn."""
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _SAID}]
    try:
        _, said, tail = render(turns, add_generation_prompt=False).rpartition(_SAID)
    except Exception:  # a template is a program, and raises what it likes
        return ""
    return tail if said else ""


def template_end(
    tail: str, encode: Callable[[str], list[int]], tokens: Collection[int], stops: Collection[int]
) -> int | None:
    """The token that a chat template ends a turn with.

    Args:
        tail: what it writes behind a response.
        encode: ids of a text.
        tokens: ids that can end a turn: control tokens but for think markers.
        stops: ids that the model's files name. Of several tokens behind a response one of these is meant.

    Returns:
        None where it writes no such token.
    """
    found = [index for index in encode(tail) if index in tokens]
    return next((index for index in found if index in stops), found[0] if found else None)


def yaml_ends(cfg: Any, tokenizer: Any) -> dict[str, tuple[int, ...]]:
    """Ids that the YAML says end a turn, by its key.

    Raises:
        ConfigError: what stands in ``eot_tokens`` is no token.
    """
    said: dict[str, tuple[int, ...]] = {}
    if cfg.eot_tokens:
        words = [cfg.eot_tokens] if isinstance(cfg.eot_tokens, str) else list(cfg.eot_tokens)
        vocabulary = tokenizer.get_vocab()
        for word in words:
            if word not in vocabulary:
                raise ConfigError(
                    f"eot_tokens: {word!r} is no token of {tokenizer.name_or_path!r}, so that no turn can end with it. "
                    "Name one of its tokens, or remove it."
                )
        said[_EOT] = tuple(vocabulary[word] for word in words)
    if (cfg.special_tokens or {}).get("eos_token"):
        said[_EOS] = (tokenizer.eos_token_id,)
    return said


def all_ends(said: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Every id that somebody names: the YAML's first, each once."""
    first = [index for key in (_EOT, _EOS) for index in said.get(key, ())]
    return tuple(dict.fromkeys([*first, *(index for ids in said.values() for index in ids)]))


def check_turn_end(tokens: TargetTokenizer, said: Mapping[str, Sequence[int]], known: int | None = None) -> None:
    """Refuse a model whose files do not agree where a turn ends, if the chat template does not settle it.

    Args:
        tokens: the target's.
        said: ids by who names them.
        known: ids from here on are tokens that the YAML adds: the model writes none of them. None if that does not
            matter because it is not asked.

    Raises:
        ModelError: with who says what, and what to set.
    """
    name = tokens.tokenizer.name_or_path

    def word(index: int) -> str:
        return repr(tokens.decode([index]))

    listed = "; ".join(f"{who} says {' and '.join(map(word, ids))}" for who, ids in said.items() if ids)
    if known is not None and tokens.turn_end_id >= known:
        raise ModelError(
            f"a turn of {name!r} would end with {word(tokens.turn_end_id)}, which the YAML adds to the tokenizer: the "
            f"model never writes it, and every response would run to the token limit ({listed}). Use a chat template "
            "and special_tokens: {eos_token: ...} with a token that the model has, or train the new token first."
        )
    if tokens.template_end is None:
        settled = said.get(_EOT) or said.get(_EOS)
        sets = [set(ids) for ids in said.values() if ids]
        if not settled and any(not one & other for one in sets for other in sets):
            raise ModelError(
                f"where a turn of {name!r} ends is not clear: {listed}, and its chat template ends an assistant's turn "
                "with none of its tokens. Say which one is right: special_tokens: {eos_token: ...} in the YAML."
            )
        if tokens.behind_response.strip():
            LOG.warning(
                "%r: its chat template ends a turn with the text %r, which holds no token that can end one. Responses "
                "are taken to end with %s.",
                name,
                tokens.behind_response,
                word(tokens.turn_end_id),
            )
    elif tokens.template_end not in all_ends(said):
        LOG.warning(
            "%r: its chat template ends a turn with %s, which none of its files names (%s). Responses end there, in "
            "sampling and in training. Whoever runs the tuned model must stop there too: set special_tokens: "
            "{eos_token: %s} in the YAML.",
            name,
            word(tokens.template_end),
            listed,
            word(tokens.template_end),
        )
