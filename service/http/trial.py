"""Tries the bandits of the settings as a start would, in a temporary directory.

`bandexa doctor` runs it, beside a server or without one. It takes the code of a start: an engine
with an empty store gets the stored bandits as they are, then those of the settings. What a start
refuses is refused here, and the server's own data directory is not touched.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.model import ServingModel
from service.http import configured
from service.observe.counters import Metrics
from service.serving import manage
from service.serving.lifecycle import running
from service.settings import Settings


def try_bandits(settings: Settings, stored: Iterable[tuple[str, ServingModel]]) -> int:
    """Create or change the configured bandits in an engine of their own; return how many.

    Args:
        settings: The server's settings.
        stored: The bandits of the data directory: name and model.

    Raises:
        ValueError: Own encoders or bandits of the settings are wrong; names the field.
    """
    wanted = configured.parse(settings.bandits)
    if wanted:
        names = {bandit.name for bandit in wanted}
        known = [(name, model) for name, model in stored if name in names]
        with tempfile.TemporaryDirectory(prefix="bandexa-doctor-") as folder:
            asyncio.run(_try(settings, Path(folder), wanted, known))
    return len(wanted)


async def _try(
    settings: Settings, folder: Path, wanted: list[configured.ConfiguredBandit],
    known: list[tuple[str, ServingModel]],
) -> None:  # fmt: skip
    elsewhere = {"data_dir": folder, "replay_dir": None, "durability": "os"}
    registry = EncoderRegistry(settings.encoders, settings.weights)
    async with running(settings.model_copy(update=elsewhere), Metrics(), registry) as engine:
        for name, model in known:
            await manage.put_bandit(engine, name, model.spec)
            catalogue = model.catalogue
            if catalogue.ids:
                await manage.put_actions(
                    engine, name, tuple(catalogue.ids),
                    catalogue.features if model.spec.has_action_features else None,
                    catalogue.enabled,
                )  # fmt: skip
        await configured.ensure(engine, wanted)
