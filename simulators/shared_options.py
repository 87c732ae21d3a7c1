"""Options that several commands share, declared once, as the fields of a dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

P = ParamSpec("P")
Options = TypeVar("Options")


def with_options(
    options: type[Options], without: Collection[str] = ()
) -> Callable[[Callable[Concatenate[Options, P], None]], Callable[..., None]]:
    """Add a flag for every field of a dataclass to a command, after the flags it declares.

    The command receives them as one value, its first argument. A field in `without` has no flag
    and its default.
    """
    hints = get_type_hints(options, include_extras=True)
    shared = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=hints[option.name],
        )
        for option in fields(options)  # type: ignore[arg-type]  # a dataclass, as is said above
        if option.name not in without
    ]

    def decorate(command: Callable[Concatenate[Options, P], None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()

        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            values: dict[str, Any] = {option.name: kwargs.pop(option.name) for option in shared}
            command(options(**values), *args, **kwargs)

        # typer reads the flags and their types from these two attributes.
        vars(run)["__signature__"] = inspect.Signature([*own, *shared])
        run.__annotations__ = {option.name: option.annotation for option in (*own, *shared)}
        return run

    return decorate
