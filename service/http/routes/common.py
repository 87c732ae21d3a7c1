"""What several routes share: the engine as a dependency, the bandit's name in a path."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from service.http.openapi import problems
from service.http.schemas.common import Id
from service.observe.dashboard.follower import Follower
from service.serving.engine import Engine

__all__ = ["EngineDep", "FollowerDep", "Name", "problems"]


async def _engine(request: Request) -> Engine:  # FastAPI runs plain functions in a thread
    engine: Engine = request.app.state.engine
    return engine


EngineDep = Annotated[Engine, Depends(_engine)]


async def _follower(request: Request) -> Follower:
    follower: Follower = request.app.state.follower
    return follower


FollowerDep = Annotated[Follower, Depends(_follower)]
Name = Annotated[Id, Path(description="The bandit's name.")]
