"""What is kept beside a value: written as labels, read back, bounded."""

from __future__ import annotations

from coherenced.origin.marks import Marks, is_mark, labels_of, marks_of, renewed

MODIFIED = "Tue, 03 Jun 2025 10:00:00 GMT"


def test_labels_carry_validators_type_and_tags() -> None:
    headers = {
        "ETag": 'W/"a1"',
        "Last-Modified": MODIFIED,
        "Content-Type": "application/json; charset=utf-8",
        "Coherenced-Tags": "team:7, a%2Cb, origin=x,,",
    }
    labels = labels_of("user", headers, 37.9)
    assert labels[0] == b"origin=user"
    assert b"content-type=application/json; charset=utf-8" in labels
    assert labels[-2:] == (b"team:7", b"a,b"), "nobody's header can forge a mark"
    assert marks_of(labels) == Marks('W/"a1"', MODIFIED, 37.0)
    assert marks_of(labels).conditions == {"If-None-Match": 'W/"a1"'}
    assert [label for label in labels if not is_mark(label)] == [b"team:7", b"a,b"]


def test_what_cannot_be_sent_back_or_is_too_long_is_not_kept() -> None:
    odd = {"ETag": '"' + "x" * 200 + '"', "Last-Modified": "\x01", "Content-Type": "no type"}
    labels = labels_of("user", odd, 0.4)
    assert marks_of(labels) == Marks() and len(labels) == 2
    assert marks_of(labels).conditions == {}
    assert marks_of((b"team:7", b"validators=x")) == Marks()


def test_without_an_etag_the_date_is_compared() -> None:
    labels = labels_of("user", {"Last-Modified": MODIFIED}, 1.0)
    assert marks_of(labels).conditions == {"If-Modified-Since": MODIFIED}


def test_what_the_origin_says_of_stale_answers_is_kept_where_it_counts() -> None:
    said = {"Cache-Control": "max-age=1, stale-while-revalidate=5, stale-if-error=600"}
    assert marks_of(labels_of("user", said, 3.0)) == Marks(load_ms=3.0), "it is not listened to"
    labels = labels_of("user", said, 3.0, respect=True)
    assert marks_of(labels) == Marks("", "", 3.0, 5_000.0, 600_000.0)
    assert marks_of(renewed(labels, {}, 9.0, "user", respect=True)) == Marks(
        "", "", 9.0, 5_000.0, 600_000.0
    )
    less = renewed(labels, {"Cache-Control": "stale-if-error=7"}, 9.0, "user", respect=True)
    assert marks_of(less) == Marks("", "", 9.0, None, 7_000.0)
    odd = {"Cache-Control": "stale-if-error=soon, stale-while-revalidate=-1"}
    assert marks_of(labels_of("user", odd, 3.0, respect=True)) == Marks(load_ms=3.0)


def test_a_304_changes_what_it_says_and_nothing_else() -> None:
    first = labels_of(
        "user", {"ETag": '"1"', "Content-Type": "text/plain", "Coherenced-Tags": "t"}, 5.0
    )
    again = renewed(first, {}, 9.0, "user")
    assert marks_of(again) == Marks('"1"', "", 9.0)
    assert set(again) - set(first) == {b'validators=9\n"1"\n'}
    assert b"content-type=text/plain" in again and b"t" in again
    assert marks_of(renewed(first, {"ETag": '"2"'}, 9.0, "user")).etag == '"2"'
