"""The server's TLS certificate, which is read anew when its file changes.

Certificates are renewed every few weeks, and a server must not restart for that. A pair of files
that is wrong changes nothing: connections go on with the certificate that was read last.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from service.settings import Settings

log = logging.getLogger(__name__)
CHECKED_S = 5.0


class Certificate:
    """A certificate with its key.

    Args:
        certificate: PEM file of the certificate, the authorities between it and the root behind it.
        key: PEM file of its key, without a password.

    Raises:
        ValueError: The files are no certificate and its key; the message names the setting.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self._version = self._seen()  # before they are read: a change in between is read next
        self.context = self._loaded()

    async def follow(self) -> None:
        """Read the files anew whenever they change, for the connections from then on."""
        while True:
            await asyncio.sleep(CHECKED_S)
            await self.read_anew()

    async def read_anew(self) -> None:
        """Read the files anew if they have changed."""
        try:
            version = await asyncio.to_thread(self._seen)
            if version == self._version:
                return
            self._version = version
            await asyncio.to_thread(self._loaded)  # what is wrong must not get into the context
            self.context.load_cert_chain(self._certificate, self._key, self._no_password)
        except (ValueError, OSError) as error:
            log.error("the TLS certificate stays as it is: %s", error)
        else:
            log.info("the TLS certificate was read anew from %s", self._certificate)

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, self._no_password)
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(
                f"tls_certificate: {self._certificate} with {self._key}: {error}"
            ) from error
        return context

    def _no_password(self) -> str:
        """Refuse a key that needs one: nobody is there to type it."""
        raise ValueError(f"tls_key: {self._key} has a password")

    def _seen(self) -> tuple[tuple[int, int], ...] | None:
        """Return what differs when a file has changed; None: one of them is not there."""
        try:
            stats = [path.stat() for path in (self._certificate, self._key)]
        except OSError:
            return None
        return tuple((found.st_mtime_ns, found.st_ino) for found in stats)


def certificate_of(settings: Settings) -> Certificate | None:
    """Return the certificate that the settings name, None where they name none.

    Raises:
        ValueError: See `Certificate`.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_certificate, settings.tls_key)
