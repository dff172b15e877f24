"""What decides a request's draws. Plain hashing: the parent process imports it too."""

from __future__ import annotations

import hashlib


def draw_key(seed: int, request_id: str) -> int:
    """The 64 bits that decide all draws of a request."""
    return int.from_bytes(hashlib.blake2b(f"{seed}|{request_id}".encode(), digest_size=8).digest(), "little")
