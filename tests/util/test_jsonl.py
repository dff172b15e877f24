"""Lines of JSON: what the fast library would change or refuse must come back as it was."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axolotl_safety.util import jsonl

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=4),
    max_leaves=12,
)


def alike(one, other) -> bool:
    """Equality in which NaN equals itself; ints and floats are not the same."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return type(one) is type(other) and one == other


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_everything_comes_back_and_fits_on_a_line(value):
    line = jsonl.dump(value)
    assert b"\n" not in line and b"\r" not in line
    assert alike(jsonl.load(line), value)
    assert alike(json.loads(line), value)  # the worker's side has the standard library alone
    assert alike(jsonl.load(json.dumps(value).encode()), value)


@pytest.mark.parametrize("value", [[float("nan")], float("-inf"), {"p": float("nan")}, "\ud800", -(2**63) - 1])
def test_what_the_fast_library_would_change(value):
    assert alike(jsonl.load(jsonl.dump(value)), value)


def test_what_json_has_no_word_for():
    with pytest.raises(TypeError):
        jsonl.dump({"ids": {1, 2}})
    with pytest.raises(ValueError):
        jsonl.load(b'{"torn": ')
