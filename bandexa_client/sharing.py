"""Declares a method once for both clients.

    class Calls:
        @shared
        async def get_bandit(self, bandit: str) -> BanditState: ...

A class that derives from `Awaiting` has that method as it stands, to be awaited. In a class that
derives from `Blocking` the same method returns its result: the coroutine is run to its end in the
caller's thread. Type checkers and editors see both signatures through the overloads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
T = TypeVar("T")
Steps = Coroutine[Any, Any, T]


class Blocking:
    """A client whose calls return once they are done. Its coroutines never suspend."""


class Awaiting:
    """A client whose calls are awaited."""


class shared(Generic[P, T]):
    """A method of both clients; decorates its `async def`."""

    def __init__(self, method: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self.__doc__ = method.__doc__
        self._awaited = method
        self._blocking = _run_to_end(method)

    @overload
    def __get__(
        self, client: None, kind: type[Blocking], /
    ) -> Callable[Concatenate[Any, P], T]: ...
    @overload
    def __get__(
        self, client: None, kind: type[object], /
    ) -> Callable[Concatenate[Any, P], Steps[T]]: ...
    @overload
    def __get__(self, client: Blocking, kind: type[object], /) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: object, kind: type[object], /) -> Callable[P, Steps[T]]: ...
    def __get__(self, client: object, kind: type[object], /) -> Any:
        function = self._blocking if issubclass(kind, Blocking) else self._awaited
        return function if client is None else MethodType(function, client)


def _run_to_end(method: Callable[Concatenate[Any, P], Steps[T]]) -> Callable[..., T]:
    """Return a function that runs the coroutine of a method in one step."""

    @functools.wraps(method)
    def run(*args: Any, **named: Any) -> T:
        steps = method(*args, **named)
        try:
            steps.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        raise AssertionError(f"{method.__name__} of a blocking client suspended")

    return run
