"""All checks of `bandexa doctor`, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from service.settings import Settings
from service.tools.doctor import machine
from service.tools.doctor.backups import backups
from service.tools.doctor.check import Check
from service.tools.doctor.data import Stored, data_directory
from service.tools.doctor.disk import disk

if TYPE_CHECKING:
    from bandexa_core.model import ServingModel


def examine(
    settings: Settings,
    keys_needed: Callable[[Settings], bool],
    try_bandits: Callable[[Settings, Iterable[tuple[str, ServingModel]]], int],
) -> Iterator[Check]:
    """Check everything; the slowest (the disk) last.

    Args:
        settings: The server's settings.
        keys_needed: Returns whether callers need an API key; ValueError where a server would
            refuse these settings.
        try_bandits: Tries the bandits of the settings beside those stored, and returns how many
            they are; ValueError where a server would refuse them.
    """
    stored = Stored()

    def access(settings: Settings) -> Iterator[Check]:
        yield machine.access(settings, keys_needed)

    def data(settings: Settings) -> Iterator[Check]:
        yield from data_directory(settings, stored)

    def bandits(settings: Settings) -> Iterator[Check]:
        yield from _bandits(settings, stored, try_bandits)

    def copies(settings: Settings) -> Iterator[Check]:
        yield from backups(settings, stored.name, time.time())

    checks: tuple[Callable[[Settings], Iterator[Check]], ...] = (
        machine.versions, machine.processors, machine.device, machine.encoders, access,
        machine.port, data, bandits, copies, disk,
    )  # fmt: skip
    for check in checks:
        yield from check(settings)


def _bandits(
    settings: Settings,
    stored: Stored,
    try_bandits: Callable[[Settings, Iterable[tuple[str, ServingModel]]], int],
) -> Iterator[Check]:
    try:
        num = try_bandits(settings, stored.models.items())
    except ValueError as error:
        yield Check("bandits", "wrong", str(error), "correct [bandits]: a server refuses to start")
        return
    if num:
        yield Check("bandits", "ok", f"configured: {', '.join(settings.bandits)}")
