"""Blobs in a bucket of S3, or of what speaks its protocol, Google's or Azure's: by obstore.

Credentials and endpoints are those of the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...),
of the machine's role, or of the pod's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from bandexa_core.errors import SnapshotError
from bandexa_core.snapshots.blobs import Blob

RETRY_S = 20.0  # for how long a call is repeated that the bucket does not answer


class BucketBlobs:
    """See `SnapshotBlobs`.

    Args:
        url: Such as s3://bucket/prefix.

    Raises:
        ValueError: There can be no such bucket.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
        try:
            self._store = from_url(
                url,
                client_options={"allow_http": endpoint.startswith("http://"), "timeout": "30s"},
                retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=RETRY_S)},
            )
        except (BaseError, ValueError) as error:
            raise ValueError(f"snapshot_store: {url}: {error}") from error

    def put(self, name: str, data: bytes) -> None:
        """See `SnapshotBlobs.put`."""
        with self._errors("write", name):
            obstore.put(self._store, name, data)

    def get(self, name: str) -> bytes:
        """See `SnapshotBlobs.get`."""
        with self._errors("read", name):
            return bytes(obstore.get(self._store, name).bytes())

    def list(self, prefix: str) -> list[Blob]:
        """See `SnapshotBlobs.list`."""
        with self._errors("list", prefix):
            found = obstore.list(self._store, prefix=f"{prefix}/").collect()
        return [Blob(each["path"], each["last_modified"].timestamp()) for each in found]

    def delete(self, name: str) -> None:
        """See `SnapshotBlobs.delete`."""
        with self._errors("delete", name):
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError:
                return

    @contextmanager
    def _errors(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            first = str(error).partition("\n")[0]  # the others are for those who debug the driver
            raise SnapshotError(f"cannot {what} {name} in {self._url}: {first}") from error
