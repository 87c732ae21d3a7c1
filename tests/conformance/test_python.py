"""The Python clients play every scene against a real server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.python_driver import play
from tests.conformance.scenes import SCENES, Stage, check

# Both clients are made of the same calls and the same rules of repeating: `make test` has every
# third scene played by the asynchronous one, too.
PLAYED = [
    pytest.param(
        scene, kind, id=f"{scene['name']}-{kind}",
        marks=pytest.mark.slow if kind == "async" and number % 3 else (),
    )
    for number, scene in enumerate(SCENES)
    for kind in ("sync", "async")
    if kind == "sync" or not scene.get("queue")  # the queue is one of threads
]  # fmt: skip


@pytest.mark.parametrize(("scene", "kind"), PLAYED)
def test_the_client_plays_the_scene(scene: dict[str, Any], kind: str, stage: Stage) -> None:
    with stage.set(scene, kind) as (played, proxy, server):
        check(played, play(played, kind), proxy, server)
