"""RFC 9111's rules for a shared cache, one by one."""

from __future__ import annotations

import pytest

from coherenced.client.contrib.http_rules import (
    Headers,
    Terms,
    Verdict,
    accepts,
    directives,
    judge,
    not_modified,
    storable_headers,
    variant,
    vary_names,
)

TERMS = Terms()


def headers(*lines: str) -> Headers:
    pairs = (line.partition(": ") for line in lines)
    return [(name.lower().encode(), value.encode()) for name, _, value in pairs]


def lifetime(*response: str, request: tuple[str, ...] = (), status: int = 200, **terms: object):  # type: ignore[no-untyped-def]
    verdict = judge(headers(*request), status, headers(*response), TERMS._replace(**terms))  # type: ignore[arg-type]
    return verdict.lifetime_s


def test_directives() -> None:
    told = directives(headers('Cache-Control: a=1, B, c="x, y"', 'Cache-Control: a=2,,D="5"'))
    assert told == {"a": "1", "b": "", "c": "x, y", "": "", "d": "5"}


@pytest.mark.parametrize(
    ("response", "seconds"),
    [
        (("Cache-Control: max-age=60",), 60),
        (("Cache-Control: max-age=60, s-maxage=5",), 5),
        (("Cache-Control: max-age=60", "Age: 15"), 45),
        (("Cache-Control: max-age=60", "Age: 60"), 0),
        (("Cache-Control: max-age=nonsense",), 0),
        (("Cache-Control: max-age=99999999999",), 31_536_000),
        (
            (
                "Date: Wed, 21 Oct 2015 07:28:00 GMT",
                "Expires: Wed, 21 Oct 2015 07:29:30 GMT",
            ),
            90,
        ),
        (("Expires: Wed, 21 Oct 2015 07:29:30 GMT",), 0),
        (("Date: Wed, 21 Oct 2015 07:28:00 GMT", "Expires: 0"), 0),
        (
            (
                "Cache-Control: max-age=5",
                "Date: Wed, 21 Oct 2015 07:28:00 GMT",
                "Expires: Wed, 21 Oct 2015 07:29:30 GMT",
            ),
            5,
        ),
        ((), 0),
        (("Cache-Control: public",), 0),
        (("Cache-Control: max-age=60, no-store",), 0),
        (("Cache-Control: max-age=60, private",), 0),
        (("Cache-Control: max-age=60, no-cache",), 0),
        (("Cache-Control: max-age=60", "Set-Cookie: a=b"), 0),
        (("Cache-Control: max-age=60", "Vary: *"), 0),
        (("Cache-Control: max-age=60", "Vary: Accept"), 60),
    ],
)
def test_how_long_a_response_may_be_kept(response: tuple[str, ...], seconds: int) -> None:
    assert lifetime(*response) == seconds


def test_which_statuses() -> None:
    assert [s for s in range(100, 600) if lifetime("Cache-Control: max-age=1", status=s)] == (
        [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501]
    )


def test_what_the_operator_allows() -> None:
    assert lifetime(default_ttl=7) == 7
    assert lifetime(default_ttl=7, status=404) == 0
    assert lifetime("Cache-Control: no-store", default_ttl=7) == 0
    assert lifetime("Cache-Control: max-age=9", "Set-Cookie: a=b", stores_cookies=True) == 9


def test_authorization() -> None:
    asked = ("Authorization: Basic x",)
    assert lifetime("Cache-Control: max-age=60", request=asked) == 0
    for allowed in ("public", "s-maxage=60", "must-revalidate"):
        assert lifetime(f"Cache-Control: max-age=60, {allowed}", request=asked) == 60


def test_the_request_says_no_store() -> None:
    asked = ("Cache-Control: no-store",)
    assert lifetime("Cache-Control: max-age=60", request=asked) == 0


def test_strictness() -> None:
    for told, strict in (("max-age=1", False), ("max-age=1, must-revalidate", True)):
        verdict = judge([], 200, headers(f"Cache-Control: {told}"), TERMS)
        assert verdict == Verdict(1, "", strict, strict)


STORED = {"ttl": 60.0, "auth": False, "strict": False}


@pytest.mark.parametrize(
    ("request_", "age_s", "is_stale", "why_not"),
    [
        ((), 10, False, ""),
        ((), 70, True, ""),
        (("Cache-Control: no-cache",), 1, False, "request"),
        (("Pragma: no-cache",), 1, False, "request"),
        (("Pragma: no-cache", "Cache-Control: max-age=5"), 1, False, ""),
        (("Cache-Control: max-age=5",), 5, False, ""),
        (("Cache-Control: max-age=5",), 6, False, "request"),
        (("Cache-Control: max-age=0",), 1, False, "request"),
        (("Cache-Control: min-fresh=10",), 49, False, ""),
        (("Cache-Control: min-fresh=10",), 51, False, "request"),
        (("Authorization: x",), 1, False, "bypass"),
    ],
)
def test_for_whom_a_stored_response_serves(
    request_: tuple[str, ...], age_s: float, is_stale: bool, why_not: str
) -> None:
    assert accepts(headers(*request_), STORED, age_s, is_stale) == why_not


def test_a_strict_one_is_never_stale_and_a_public_one_serves_authorized() -> None:
    strict = {**STORED, "strict": True, "auth": True}
    assert accepts([], strict, 70, True) == "stale"
    assert accepts(headers("Authorization: x"), strict, 1, False) == ""


def test_variants() -> None:
    assert vary_names(headers("Vary: Accept, accept-encoding", "Vary: ACCEPT")) == (
        [b"accept", b"accept-encoding"]
    )
    names = [b"accept", b"accept-language"]
    one = variant(headers("Accept: text/html", "Accept-Language: en"), names)
    assert one == variant(headers("Accept-Language: en", "Accept:  text/html ", "X: y"), names)
    others = {
        variant(headers("Accept: text/html"), names),
        variant(headers("Accept-Language: text/html"), names),
        variant(headers("Accept: text/html", "Accept: en"), names),
        variant([], names),
        variant([], []),
        one,
    }
    assert len(others) == 6
    assert variant(headers("Accept: x"), []) == ""


def test_what_is_for_one_connection_only_is_not_stored() -> None:
    response = headers(
        "Content-Type: text/html", "Connection: close, X-Hop", "X-Hop: 1", "Age: 3", "TE: x"
    )
    assert storable_headers(response) == [[b"content-type", b"text/html"]]


@pytest.mark.parametrize(
    ("request_", "same"),
    [
        (('If-None-Match: "a"',), True),
        (('If-None-Match: W/"a"',), True),
        (('If-None-Match: "b", "a"',), True),
        (("If-None-Match: *",), True),
        (('If-None-Match: "b"',), False),
        (('If-None-Match: "b"', "If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT"), False),
        (("If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT",), True),
        (("If-Modified-Since: Wed, 21 Oct 2015 07:27:59 GMT",), False),
        (("If-Modified-Since: nonsense",), False),
        ((), False),
    ],
)
def test_what_the_client_holds_already(request_: tuple[str, ...], same: bool) -> None:
    stored = headers('ETag: "a"', "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT")
    assert not_modified(headers(*request_), stored) is same
