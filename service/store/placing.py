"""Which store a data directory belongs to: its own file, or a database that a note in it names.

A server whose store is a database notes that in `store.json` of its data directory, where the
models stay. So commands that are given the directory find the database, and no server mixes the
models of one log with another log. The note has no password: the driver takes that from PGPASSWORD,
from ~/.pgpass or from the setting.
"""

from __future__ import annotations

import json
from pathlib import Path

from bandexa_core.filesystem import LocalFileSystem, replace_file
from service.store.address import PostgresUrl, StoreAddress
from service.store.errors import StoreError

NOTE, FILE = "store.json", "bandexa.db"


def store_of(data_dir: Path, given: str | None = None) -> StoreAddress:
    """Return where the store of a data directory is.

    Args:
        data_dir: The directory.
        given: The setting `store`; None: what the directory says.

    Raises:
        StoreError: The note cannot be read, or the setting is no URL.
    """
    if given is not None:
        try:
            return PostgresUrl.of(given)
        except ValueError as error:
            raise StoreError(str(error)) from None
    noted = _note(data_dir)
    return data_dir / FILE if noted is None else PostgresUrl(noted["store"])


def existing_store(data_dir: Path, given: str | None = None) -> StoreAddress:
    """Return where the store of a data directory is; see `store_of`.

    Raises:
        StoreError: It holds none.
    """
    address = store_of(data_dir, given)
    if isinstance(address, Path) and not address.is_file():
        raise StoreError(f"{data_dir} holds no {FILE}")
    return address


def require_unmixed(data_dir: Path, given: str | None) -> None:
    """Check before a start that the setting and the data directory name one store.

    Raises:
        StoreError: The directory has a file of its own although a database is given, or belongs to
            a database although none is.
    """
    noted, file = _note(data_dir), data_dir / FILE
    if given is None and noted is not None:
        raise StoreError(
            f"{data_dir} has the models of the log at {PostgresUrl(noted['store'])}: set `store` to"
            " it, or use another data_dir"
        )
    if given is not None and file.is_file() and file.stat().st_size:
        raise StoreError(
            f"{data_dir} has a log of its own ({FILE}), and `store` names another: copy it with"
            f" `bandexa migrate {data_dir} URL --models NEW_DIR`, or use another data_dir"
        )


def note_store(data_dir: Path, address: PostgresUrl, log_uid: str) -> None:
    """Note that a directory has the models of a log; nothing where that is noted.

    Raises:
        StoreError: It has those of another log.
    """
    noted = _note(data_dir)
    if noted is not None and noted["log"] != log_uid:
        raise StoreError(
            f"{data_dir} has the models of another log than the one at {address}: two logs would be"
            " mixed. Use another data_dir, or restore that database"
        )
    note = {"store": address.without_password(), "log": log_uid}
    if note != noted:
        data = (json.dumps(note, sort_keys=True) + "\n").encode()
        replace_file(LocalFileSystem(), data_dir / NOTE, data)


def _note(data_dir: Path) -> dict[str, str] | None:
    try:
        text = (data_dir / NOTE).read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{data_dir / NOTE}: {error}") from error
    try:
        found = json.loads(text)
        return {"store": str(found["store"]), "log": str(found["log"])}
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{data_dir / NOTE} is not what was written") from error
