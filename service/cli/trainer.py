"""`bandexa trainer`: trains the bandits of servers on other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import USAGE, fail

DATA = Path("bandexa-trainer")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(trainer)


def trainer(
    store: Annotated[
        str | None, typer.Option(help="URL of the database; the setting `store` if not given.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings: those of the servers will do.")
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(help="Directory of its own for replays and cached models.")
    ] = DATA,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
) -> None:
    """Train the bandits of a database until SIGTERM, for servers with `trainer = "elsewhere"`.

    Any number work side by side, each on one bandit at a time.
    """
    from service.observe import logs
    from service.settings import SettingsError, load_settings
    from service.store.errors import StoreError

    try:
        settings = load_settings(
            config, store=store, data_dir=data_dir, replay_dir=data_dir / "replay", device=device
        )
        if settings.store is None:
            raise SettingsError("store: give the postgresql:// URL of the database")
        logs.configure(settings.log_format, settings.log_level, "trainer")
    except SettingsError as error:
        fail(str(error), status=USAGE)
    import os

    from bandexa_core.filesystem import LocalFileSystem, lock_file, make_dirs
    from service import BLAS_THREADS
    from service.store.address import PostgresUrl
    from service.store.opening import log_uid
    from service.store.placing import note_store

    # Before numpy and torch are imported, as for a server's own trainer.
    os.environ[BLAS_THREADS] = str(settings.trainer_threads)
    try:
        url = PostgresUrl.of(settings.store)
        for folder in (settings.data_dir, settings.snapshots, settings.replays):
            make_dirs(LocalFileSystem(), folder.resolve())
        rank = os.environ.get("LOCAL_RANK", "0")  # of torchrun's processes on this machine
        lock_file(settings.data_dir / ("trainer.lock" if rank == "0" else f"trainer-{rank}.lock"))
        if rank == "0":  # the others share the directory
            note_store(settings.data_dir, url, log_uid(url))
        from service.training.messages import Configuration
        from service.training.worker.elsewhere import run

        configuration = Configuration.of(settings, epoch=0)
        run(url, configuration, settings.trainer_lease_s, settings.trainer_hung_s)
    except (StoreError, ValueError, OSError) as error:
        fail(f"bandexa trainer: {error}", status=USAGE)
