"""Options that several commands share, declared once, as the fields of a dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_type_hints

P = ParamSpec("P")
Options = TypeVar("Options")
_NAMES = ("__module__", "__name__", "__qualname__", "__doc__")


def with_options(
    options: type[Options], without: Collection[str] = ()
) -> Callable[[Callable[Concatenate[Options, P], None]], Callable[..., None]]:
    """Add a flag for every field of a dataclass to a command, after the flags it declares.

    The command receives them as one value, its first argument. A field in `without` has no flag
    and its default.
    """
    return lambda command: _Command(command, options, without)


class _Command(Generic[Options]):
    """A command as typer reads it, by its signature and its annotations.

    They are made when they are asked for: to read the annotations of all commands would take longer
    than most commands.
    """

    def __init__(
        self,
        command: Callable[Concatenate[Options, ...], None],
        options: type[Options],
        without: Collection[str],
    ) -> None:
        functools.update_wrapper(self, command, assigned=_NAMES)
        self._command = command
        self._options = options
        self._without = without

    def __call__(self, **given: Any) -> None:
        shared = {name: given.pop(name) for name in self._shared}
        self._command(self._options(**shared), **given)

    @functools.cached_property
    def _shared(self) -> tuple[str, ...]:
        found = fields(self._options)  # type: ignore[arg-type]  # it is a dataclass
        return tuple(field.name for field in found if field.name not in self._without)

    @functools.cached_property
    def __signature__(self) -> inspect.Signature:
        _, *own = inspect.signature(self._command, eval_str=True).parameters.values()
        hints = get_type_hints(self._options, include_extras=True)
        declared = inspect.signature(self._options).parameters
        shared = [declared[name].replace(annotation=hints[name]) for name in self._shared]
        return inspect.Signature([*own, *shared])

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {name: each.annotation for name, each in self.__signature__.parameters.items()}
