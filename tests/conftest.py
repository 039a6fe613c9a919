"""The order of tests: what only computes comes last, and is begun with the first (`ahead`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import ahead


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    last = [item for item in items if item.get_closest_marker("ahead")]
    items[:] = [*(item for item in items if item not in set(last)), *last]


@pytest.fixture(scope="session", autouse=True)
def begun_ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    marks = [mark for item in request.session.items for mark in item.iter_markers("ahead")]
    if len(request.session.items) - len(marks) >= ahead.LEAST_BEFORE:
        ahead.begin(list(dict.fromkeys(mark.kwargs["parts"] for mark in marks)))
    yield
    ahead.end()
