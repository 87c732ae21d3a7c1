"""What several routes share: the engine as a dependency, the bandit's name in a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Path, Request

from service.http.openapi import problems
from service.http.schemas.common import Id
from service.observe.dashboard.follower import Follower
from service.serving.engine import Engine
from service.settings import KeySetting

__all__ = ["EngineDep", "FollowerDep", "HolderDep", "Name", "problems", "reached"]


async def _engine(request: Request) -> Engine:  # FastAPI runs plain functions in a thread
    engine: Engine = request.app.state.engine
    return engine


EngineDep = Annotated[Engine, Depends(_engine)]


async def _follower(request: Request) -> Follower:
    follower: Follower = request.app.state.follower
    return follower


async def _holder(request: Request) -> KeySetting | None:
    holder: KeySetting | None = request.state.holder
    return holder


def reached(holder: KeySetting | None) -> Callable[[str], bool] | None:
    """Return whether a key reaches the bandit of a name; None: it reaches all."""
    return None if holder is None or holder.bandits is None else holder.reaches


HolderDep = Annotated[KeySetting | None, Depends(_holder)]
FollowerDep = Annotated[Follower, Depends(_follower)]
Name = Annotated[Id, Path(description="The bandit's name.")]
