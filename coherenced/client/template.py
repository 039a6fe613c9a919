"""Keys and tags of `@cached`, written like `user:{id}`, checked when the function is defined.

A field names a parameter of the function, and may go on as Python's format strings do:
`{user.id}`, `{row[0]}`, `{day:%Y-%m-%d}`. A name that the function does not have is an
error at once, not at the first call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any, Final, NamedTuple

from coherenced.errors import UsageError

_FORMATTER: Final = Formatter()
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

Arguments = Callable[[tuple[Any, ...], dict[str, Any]], Mapping[str, Any]]


class _Field(NamedTuple):
    """One plain `{name}`: where to find it among the arguments of a call."""

    name: str
    place: int
    """Its place among the positional arguments, or a number beyond all of them."""
    default: Any
    is_required: bool


class Template:
    """Text with fields; `text(arguments, named)` fills them in from one call."""

    def __init__(self, written: str, function: Callable[..., Any]) -> None:
        """Raises `UsageError` for what is no template, or names what is no parameter."""
        self.written = written
        self._signature = inspect.signature(function)
        self._where = f"{function.__module__}.{function.__qualname__}"
        try:
            pieces = list(_FORMATTER.parse(written))
        except ValueError as error:
            raise UsageError(f"{written!r} is no template ({error}): write user:{{id}}") from None
        self._plain: list[str | _Field] | None = []
        for literal, field, form, conversion in pieces:
            if literal and self._plain is not None:
                self._plain.append(literal)
            if field is None:
                continue
            found = self._checked(field)
            if form and "{" in form:
                raise UsageError(f"{written!r}: a field within a field's format is not supported")
            if form or conversion or found.name != field:
                self._plain = None
            if self._plain is not None:
                self._plain.append(found)

    def text(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> str:
        """Raises `TypeError` when the call does not fit the function."""
        if self._plain is None:
            return _FORMATTER.vformat(self.written, (), self._bound(arguments, named))
        count, parts = len(arguments), []
        for piece in self._plain:
            if isinstance(piece, str):
                parts.append(piece)
            elif piece.place < count:
                parts.append(str(arguments[piece.place]))
            elif piece.name in named:
                parts.append(str(named[piece.name]))
            elif piece.is_required:
                self._signature.bind(*arguments, **named)  # says what is missing
                raise TypeError(f"{self._where}() got no {piece.name!r}")
            else:
                parts.append(str(piece.default))
        return "".join(parts)

    def _bound(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Mapping[str, Any]:
        bound = self._signature.bind(*arguments, **named)
        bound.apply_defaults()
        return bound.arguments

    def _checked(self, field: str) -> _Field:
        name = field.partition(".")[0].partition("[")[0]
        parameters = self._signature.parameters
        if name in parameters and parameters[name].kind not in _VARIADIC:
            parameter = parameters[name]
            is_keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
            place = 1 << 30 if is_keyword else list(parameters).index(name)
            required = parameter.default is inspect.Parameter.empty
            return _Field(name, place, parameter.default, required)
        if not name or name.isdigit():
            raise UsageError(f"{self.written!r}: name the parameter, as in user:{{id}}")
        known = ", ".join(n for n, p in parameters.items() if p.kind not in _VARIADIC) or "none"
        raise UsageError(
            f"{self.written!r} names {name!r}, which is no parameter of {self._where} "
            f"(it has: {known})"
        )


def default_template(function: Callable[..., Any]) -> Callable[..., str]:
    """The key of a function that was given none: its name and its arguments as they print.

    Of a method the object itself is left out, unless a key says otherwise: `{self.id}`.
    """
    signature = inspect.signature(function)
    name = f"{function.__module__}.{function.__qualname__}"
    first = next(iter(signature.parameters), "")
    skipped = {first} if first in ("self", "cls") else set()

    def text(arguments: tuple[Any, ...], named: dict[str, Any]) -> str:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        inside = ", ".join(repr(v) for n, v in bound.arguments.items() if n not in skipped)
        return f"{name}({inside})"

    return text
