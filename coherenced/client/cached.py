"""`@cache.cached`: a function whose results are kept, for both shells.

The decorated function has beside itself:

    key_of(*args)       the key under which the result of this call is kept
    tags_of(*args)      its tags
    invalidate(*args)   drop the result of this call, everywhere
    uncached            the function itself
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar

from coherenced.client.freshness import LoadPolicy
from coherenced.client.loading import Tags
from coherenced.client.replies import Invalidation
from coherenced.client.template import Template, default_template
from coherenced.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

Recall = Callable[[str, Callable[[], Any], LoadPolicy, Tags], Any]
"""A shell's get_or_load, with the policy ready made."""


class CachedFunction(Protocol[P, R]):
    """How a function that a `Client` has decorated looks to who checks types."""

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R: ...

    def __get__(self, instance: Any, owner: Any = None, /) -> CachedFunction[..., R]: ...

    @property
    def uncached(self) -> Callable[P, R]: ...

    def key_of(self, *arguments: P.args, **named: P.kwargs) -> str: ...

    def tags_of(self, *arguments: P.args, **named: P.kwargs) -> list[str]: ...

    def invalidate(self, *arguments: P.args, **named: P.kwargs) -> Invalidation: ...


class CachedCoroutine(Protocol[P, R]):
    """The same of an `AsyncClient`."""

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R: ...

    def __get__(self, instance: Any, owner: Any = None, /) -> CachedCoroutine[..., R]: ...

    @property
    def uncached(self) -> Callable[P, R]: ...

    def key_of(self, *arguments: P.args, **named: P.kwargs) -> str: ...

    def tags_of(self, *arguments: P.args, **named: P.kwargs) -> list[str]: ...

    def invalidate(
        self, *arguments: P.args, **named: P.kwargs
    ) -> Coroutine[Any, Any, Invalidation]: ...


class Decorator:
    """What `cache.cached(…)` returns."""

    def __init__(
        self,
        recall: Recall,
        invalidate: Callable[..., Any],
        policy: LoadPolicy,
        key: str | Callable[..., str] | None,
        tags: Iterable[str],
        *,
        is_async: bool,
    ) -> None:
        if isinstance(tags, str):
            raise UsageError(f"give a list of tags, not the single text {tags!r}")
        self._recall = recall
        self._invalidate = invalidate
        self._policy = policy
        self._key = key
        self._tags = tuple(tags)
        self._is_async = is_async

    def __call__(self, function: Callable[P, R]) -> Any:
        """The cached function. Raises `UsageError` for a template that does not fit it."""
        _check_kind(function, self._is_async)
        recall, policy = self._recall, self._policy
        key_text = _key_text(self._key, function)
        templates = [Template(tag, function) for tag in self._tags]

        def tags_of(arguments: tuple[Any, ...], named: dict[str, Any]) -> list[str]:
            return [template.text(arguments, named) for template in templates]

        # Either is called often, so neither goes through the other.
        @functools.wraps(function)
        def wrapper(*arguments: P.args, **named: P.kwargs) -> Any:
            return recall(
                key_text(arguments, named),
                functools.partial(function, *arguments, **named),
                policy,
                lambda value: tags_of(arguments, named),
            )

        @functools.wraps(function)
        async def awaiting(*arguments: P.args, **named: P.kwargs) -> Any:
            return await recall(
                key_text(arguments, named),
                functools.partial(function, *arguments, **named),
                policy,
                lambda value: tags_of(arguments, named),
            )

        made: Any = awaiting if self._is_async else wrapper
        made.key_of = lambda *arguments, **named: key_text(arguments, named)
        made.tags_of = lambda *arguments, **named: tags_of(arguments, named)
        made.uncached = function
        made.invalidate = lambda *arguments, **named: self._invalidate([key_text(arguments, named)])
        return made


def _key_text(
    key: str | Callable[..., str] | None, function: Callable[..., Any]
) -> Callable[[tuple[Any, ...], dict[str, Any]], str]:
    if key is None:
        return default_template(function)
    if isinstance(key, str):
        return Template(key, function).text
    make = key
    return lambda arguments, named: make(*arguments, **named)


def _check_kind(function: Callable[..., Any], is_async: bool) -> None:
    if isinstance(function, classmethod | staticmethod):
        raise UsageError("put @cached below @classmethod or @staticmethod, next to the function")
    if not callable(function):
        raise UsageError(f"@cached takes a function, not {type(function).__name__}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(
            f"{function.__qualname__} yields: a generator's results cannot be cached, return a list"
        )
    if inspect.iscoroutinefunction(function) != is_async:
        needed = "a Client" if is_async else "an AsyncClient"
        raise UsageError(f"{function.__qualname__} must be cached by {needed}")
