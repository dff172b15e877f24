"""The reject reasons in a sentence each, for a reader who has not read the code."""

from __future__ import annotations

_REASONS = {
    "control_token": "the text spells a control token of the model",
    "copy": "the rewrite repeats the reference",
    "empty_answer": "nothing after the thought",
    "empty_prompt": "the row has no prompt",
    "empty_thought": "nothing between the think markers",
    "held_out": "its category is held out (hold_out)",
    "invalid_unicode": "the text is not valid Unicode",
    "leak": "the response speaks of the instruction it was shown",
    "loop": "the response repeats itself",
    "malformed_row": "the row is no mapping of columns",
    "no_label": "nothing says whether the prompt is harmful",
    "no_reference": "the row has no response to rewrite",
    "not_refused": "a harmful prompt was not refused",
    "not_text": "a column that should hold text holds something else",
    "null_text": "a column that should hold text is empty",
    "over_refused": "a harmless prompt was refused",
    "prompt_too_long": "the prompt leaves no room for a response",
    "stray_marker": "a think marker where none belongs",
    "template_refuses": "the chat template cannot render the row",
    "too_long": "prompt and response exceed sequence_len",
    "truncated": "the response hit the length limit",
    "unclosed_think": "the thought never ends",
    "unknown_label": "the label's meaning is not known",
    "unopened_think": "the response does not begin with a thought",
    "unreadable_messages": "the conversation cannot be read",
    "unreadable_refusal": "prompt and refusal cannot be told apart",
    "unsupported_conversation": "the conversation has no user turn before its response",
}
_GUARD = {
    "controversial": "the guard calls it controversial",
    "threshold": "the guard's score is past the threshold",
    "truncated": "the guard's own answer was cut off",
    "unparsable": "the guard's answer cannot be read",
    "unsafe": "the guard calls it unsafe",
    "unscored": "the guard's answer could not be scored",
}


def explain(reason: str) -> str:
    """One sentence, or nothing for a reason that explains itself."""
    if reason.startswith("engine_"):
        return "the engine gave up on this request"
    if reason.startswith("guard_"):
        return _GUARD.get(reason.removeprefix("guard_"), "the guard could not judge it, and doubt rejects")
    return _REASONS.get(reason, "")
