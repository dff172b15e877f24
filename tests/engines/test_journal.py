"""The journal survives torn tails, damage, doubles, strangers and a full disk, and never invents a record."""

from __future__ import annotations

import errno
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axolotl_safety.engines.journal import Journal, encode_record, read_head
from axolotl_safety.util.files import write_atomically


def fill(path, count=6):
    with Journal(path) as journal:
        for index in range(count):
            journal.append("completion", f"id{index}", {"token_ids": list(range(index + 3)), "finish_reason": "stop"})
    return path.read_bytes()


def test_records_come_back_as_they_were_written(tmp_path):
    fill(tmp_path / "j.jsonl")
    with Journal(tmp_path / "j.jsonl") as journal:
        assert len(journal) == 6 and ("completion", "id3") in journal
        record = journal.get("completion", "id3")
        assert record["token_ids"] == [0, 1, 2, 3, 4, 5] and record["request_id"] == "id3"
        assert journal.get("completion", "absent") is None
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert [line["request_id"] for line in lines] == [f"id{index}" for index in range(6)]
    assert all(line["kind"] == "completion" for line in lines)


def test_truncation_at_every_byte_of_the_last_three_records_loses_only_what_is_cut(tmp_path):
    whole = fill(tmp_path / "whole.jsonl")
    starts = [0] + [place + 1 for place, byte in enumerate(whole) if byte == 0x0A]
    for cut in range(starts[3], len(whole) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(whole[:cut])
        complete = sum(start - 1 <= cut for start in starts[1:])  # a record may lack its line's end alone
        with Journal(path) as journal:
            assert len(journal) == complete
            journal.append("completion", "new", {"token_ids": [9]})
        lines = path.read_bytes().splitlines()
        assert len(lines) == complete + 1 and all(read_head(line) for line in lines)
        assert b"".join(line + b"\n" for line in lines[:-1]) == whole[: starts[complete]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b"stop", b"st0p"),
        lambda line: b"\x00" * 20,
        lambda line: b"not json",
        lambda line: b'{"kind":"completion","request_id":"id2","token_ids":[1]}',
        lambda line: line[:-12],
        lambda line: b"",
    ],
)
def test_a_damaged_line_is_counted_and_the_others_are_kept(tmp_path, damage):
    path = tmp_path / "j.jsonl"
    lines = fill(path).splitlines()
    lines[2] = damage(lines[2])
    path.write_bytes(b"\n".join(lines) + b"\n")
    with Journal(path) as journal:
        assert journal.damaged == 1 and len(journal) == 5
        assert ("completion", "id2") not in journal and journal.get("completion", "id5")["token_ids"] == list(range(8))
        journal.append("completion", "id2", {"token_ids": [7]})
    with Journal(path) as journal:
        assert journal.get("completion", "id2")["token_ids"] == [7] and len(journal) == 6


def test_doubled_and_crlf_records_are_harmless_and_the_first_stands(tmp_path):
    path = tmp_path / "j.jsonl"
    whole = fill(path)
    other = encode_record("completion", "id0", {"token_ids": [99]})
    path.write_bytes(whole.replace(b"\n", b"\r\n") + other)
    with Journal(path) as journal:
        assert journal.doubled == 1 and len(journal) == 6
        assert journal.get("completion", "id0")["token_ids"] == [0, 1, 2]


def test_appending_what_is_held_changes_nothing(tmp_path):
    path = tmp_path / "j.jsonl"
    whole = fill(path)
    with Journal(path) as journal:
        journal.append("completion", "id0", {"token_ids": [5]})
    assert path.read_bytes() == whole


@pytest.mark.parametrize("short", [False, True])
def test_a_full_disk_stops_cleanly_and_leaves_no_part(tmp_path, monkeypatch, short):
    path = tmp_path / "j.jsonl"
    whole = fill(path)
    journal = Journal(path)
    real = os.pwrite

    def full(fd, data, place):
        if short:
            return real(fd, data[:10], place)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=f"No space left on device.*'{path}'"):
        journal.append("completion", "late", {"token_ids": [1]})
    monkeypatch.setattr(os, "pwrite", real)
    assert path.read_bytes() == whole
    journal.append("completion", "late", {"token_ids": [1]})
    journal.close()
    with Journal(path) as again:
        assert ("completion", "late") in again and again.damaged == 0


def test_atomic_write_keeps_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name not in ("kind", "request_id", "crc")),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5
        ),
    )
)
def test_whatever_json_can_hold_comes_back(tmp_path_factory, fields):
    path = tmp_path_factory.mktemp("any") / "j.jsonl"
    with Journal(path) as journal:
        journal.append("score", "x", fields)
    with Journal(path) as journal:
        record = journal.get("score", "x")
    assert {key: record[key] for key in fields} == fields
