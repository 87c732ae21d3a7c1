"""What the calls in front of FastAPI share: the engine, who may call, and how bodies come in."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.types import Receive

from service.http.budget import BytesInFlight
from service.http.codec import bounds_of
from service.http.keys import Keys
from service.http.large_bodies import LargeBodies
from service.http.limits import BodyBounds, BodyReader
from service.serving.engine import Engine
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Front:
    """Serves what is called without FastAPI.

    Attributes:
        engine: Decides and learns.
        settings: Limits.
        keys: API keys; without any, every caller may call.
        large: The thread for large bodies.
        budget: What all bodies may take together.
        bounds: Of every body.
    """

    engine: Engine
    settings: Settings
    keys: Keys
    large: LargeBodies
    budget: BytesInFlight
    bounds: BodyBounds = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", bounds_of(self.settings))

    def body(self, receive: Receive, announced: bytes) -> BodyReader:
        """Return the reader of a body; `announced`: its Content-Length, empty without one.

        Raises:
            HTTPException, Unavailable: It is too large, or there is no room for it now.
        """
        settings = self.settings
        return BodyReader(
            receive, settings.max_body_bytes, settings.body_timeout_s, self.engine.loop,
            self.budget, announced,
        )  # fmt: skip
