"""The page as a file: made whole or not at all, believed only if it is what it says it is."""

from __future__ import annotations

import errno
import mmap
import os
import re
import struct
import time
from pathlib import Path

import pytest

from coherenced.errors import StartError
from coherenced.page import layout, writer
from coherenced.page.layout import (
    APPLIED_AT,
    GENERATION_AT,
    MOVED_AT,
    TAGS_AT,
    VERIFIED_AT,
    WORD,
    key_slot,
    tag_slot,
)
from coherenced.page.reader import PageReader, Unusable
from coherenced.page.writer import PageWriter, retire

MINE = b"00000000000000aa"
EPOCH = b"00000000000000e1"


def made(path: Path, incarnation: bytes = MINE, slots: int = 1024) -> PageWriter:
    page = PageWriter(path, incarnation, slots, 1000.0)
    page.publish(5000.0, EPOCH, 7)
    return page


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "page.shm"


def test_a_reader_sees_what_the_writer_counts(path: Path) -> None:
    page = made(path)
    seen = PageReader(str(path), MINE.decode())
    slot = key_slot(b"k", seen.slots)
    assert (seen.slots, seen.bound_ns) == (1024, 1_000_000_000)
    assert seen.words[VERIFIED_AT] == 5_000_000_000
    assert seen.words[APPLIED_AT] == 7
    page.touch((b"k", b"k"))
    assert seen.words[slot] == 2
    tags, tag = seen.words[TAGS_AT], tag_slot(b"k", seen.slots)
    assert tag != slot
    page.touch_tags((b"k",))
    assert (seen.words[TAGS_AT], seen.words[tag]) == (tags + 1, 1)
    generation = seen.words[GENERATION_AT]
    page.drop()
    assert seen.words[GENERATION_AT] == generation + 1


def test_the_page_tells_when_the_position_moved_and_only_then(path: Path) -> None:
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    page = made(path)
    seen = PageReader(str(path), MINE.decode())
    moved_ns = seen.words[MOVED_AT]
    assert before_ns <= moved_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    page.publish(5100.0, EPOCH, 7)
    assert seen.words[MOVED_AT] == moved_ns
    page.publish(5100.0, EPOCH, 8)
    assert seen.words[MOVED_AT] > moved_ns


def test_counters_wrap(path: Path) -> None:
    page = made(path)
    words = page._words
    slot = key_slot(b"k", 1024)
    last = (1 << 64) - 1
    words[slot] = words[GENERATION_AT] = words[TAGS_AT] = last
    page.touch((b"k",))
    page.drop()
    page.touch_tags((b"t",))
    assert (words[slot], words[GENERATION_AT], words[TAGS_AT]) == (0, 0, 0)


def test_a_proof_that_moves_back_voids_what_it_proved(path: Path) -> None:
    page = made(path)
    generation = page._words[GENERATION_AT]
    page.publish(6000.0, EPOCH, 8)
    assert page._words[GENERATION_AT] == generation
    page.publish(float("-inf"), EPOCH, 8)
    assert page._words[GENERATION_AT] == generation + 1
    assert page._words[VERIFIED_AT] == 0


def test_readers_may_not_write(path: Path) -> None:
    made(path)
    seen = PageReader(str(path), MINE.decode())
    with pytest.raises(TypeError):
        seen.words[600] = 1


@pytest.mark.parametrize(
    ("socket_mode", "wanted"), [(0o660, 0o640), (0o600, 0o600), (0o666, 0o644)]
)
def test_who_may_use_the_socket_may_read(path: Path, socket_mode: int, wanted: int) -> None:
    PageWriter(path, MINE, 1024, 1000.0, socket_mode)
    assert path.stat().st_mode & 0o777 == wanted


def test_any_number_of_slots_is_rounded_up(path: Path) -> None:
    assert [writer.rounded(n) for n in (1, 1024, 1025, 777_777, 1 << 30)] == [
        *(1024, 1024, 2048, 1 << 20, layout.MAX_SLOTS),
    ]


def test_the_next_daemon_voids_the_page_and_takes_its_name(path: Path) -> None:
    made(path)
    old = PageReader(str(path), MINE.decode())
    generation = old.words[GENERATION_AT]
    PageWriter(path, b"00000000000000bb", 2048, 1000.0)
    assert old.words[VERIFIED_AT] == 0
    assert old.words[GENERATION_AT] != generation
    assert not old.is_named()
    assert PageReader(str(path), "00000000000000bb").is_named()
    assert [file.name for file in path.parent.iterdir()] == ["page.shm"]


def test_a_daemon_that_ends_takes_its_page_away_but_not_anothers(path: Path) -> None:
    first = made(path)
    seen = PageReader(str(path), MINE.decode())
    second = made(path, b"00000000000000bb")
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()
    assert seen.words[VERIFIED_AT] == 0


def test_a_daemon_without_a_page_leaves_none_to_be_believed(path: Path) -> None:
    made(path)
    old = PageReader(str(path), MINE.decode())
    retire(path)
    assert not path.exists()
    assert old.words[VERIFIED_AT] == 0
    retire(path)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * 8192, os.urandom(5000)])
def test_a_foreign_file_of_that_name_is_replaced_unharmed(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with path.open("rb") as foreign:
        page = made(path)
        assert foreign.read() == content
    assert PageReader(str(path), MINE.decode()).slots == page.slots


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(
    path: Path, fault: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StartError, match=re.escape(os.strerror(fault))) as caught:
        made(path)
    assert str(path) in str(caught.value)
    assert not list(path.parent.iterdir())


def broken(path: Path, word: int, value: int) -> None:
    made(path)
    with path.open("r+b") as file:
        file.seek(WORD * word)
        file.write(struct.pack("=Q", value))


@pytest.mark.parametrize(
    ("word", "value", "why"),
    [
        (layout.MAGIC_AT, 3, "not a shared page"),
        (layout.VERSION_AT, 9, "layout 9, this client reads 1"),
        (layout.SLOTS_AT, 1000, "a table of 1000 slots"),
        (layout.SLOTS_AT, 2048, "not of the size"),
        (layout.LANES_AT, 2, "2 lanes"),
        (layout.INCARNATION_AT, 5, "the page of another daemon"),
        (layout.TIME_AT, 12345, "another clock"),
    ],
)
def test_what_is_no_page_for_this_client_is_not_used(
    path: Path, word: int, value: int, why: str
) -> None:
    broken(path, word, value)
    with pytest.raises(Unusable, match=why):
        PageReader(str(path), MINE.decode())


def test_short_files_missing_files_and_other_things(path: Path) -> None:
    with pytest.raises(Unusable, match="No such file"):
        PageReader(str(path), MINE.decode())
    made(path)
    os.truncate(path, 8000)
    with pytest.raises(Unusable, match="not of the size"):
        PageReader(str(path), MINE.decode())
    os.truncate(path, 30)
    with pytest.raises(Unusable, match="too short"):
        PageReader(str(path), MINE.decode())
    path.unlink()
    path.mkdir()
    with pytest.raises(Unusable):
        PageReader(str(path), MINE.decode())
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(Unusable, match="not a file"):
        PageReader(str(path), MINE.decode())


def test_an_unordered_processor_reads_no_page(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(path)
    monkeypatch.setattr(layout, "ORDERED", False)
    with pytest.raises(Unusable, match="reorder"):
        PageReader(str(path), MINE.decode())


def test_a_mapping_outlives_its_reader_and_its_file(path: Path) -> None:
    page = made(path)
    words = PageReader(str(path), MINE.decode()).words
    path.unlink()
    page.touch((b"k",))
    assert words[key_slot(b"k", 1024)] == 1
    assert isinstance(words.obj, mmap.mmap)
