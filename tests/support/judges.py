"""What a judge behind an endpoint says."""

from __future__ import annotations

from typing import Any

SAFE = '{"safe": true, "refusal": true}'


UNSAFE = '{"safe": false, "refusal": false}'


def says(text: str | None, finish: str = "stop") -> tuple[int, Any, dict[str, str]]:
    return 200, {"choices": [{"message": {"content": text}, "finish_reason": finish}]}, {}
