"""Names of hosts and origins of web pages, in the form in which requests have them."""

from __future__ import annotations

import ipaddress
import re

_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^\[\]/?#@:\s]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def host_name(text: str) -> str:
    """Return a name or address as a `Host` header has it, in lower case, without brackets.

    Raises:
        ValueError: It is none: it has a scheme, a port, a path or a space.
    """
    name = text.lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        if not _HOST_NAME.fullmatch(name):
            raise ValueError(
                f"{text!r} is no host name: write it without scheme, port or path, such as"
                " bandexa.example (a name with other letters in its xn-- form)"
            ) from None
    return name


def web_origin(text: str) -> str:
    """Return an origin as browsers send it: in lower case, without the default port.

    Raises:
        ValueError: It is none: it has no scheme, or a path.
    """
    found = _ORIGIN.fullmatch(text.lower())
    try:
        if found is None:
            raise ValueError
        scheme, host, port = found.groups()
        shown = f"[{host_name(host)}]" if host.startswith("[") else host_name(host)
    except ValueError:
        raise ValueError(
            f"{text!r} is no origin: write scheme, name and port alone, such as"
            " https://shop.example or http://10.0.0.5:3000, without a path or a slash at the end"
        ) from None
    return f"{scheme}://{shown}" + (f":{port}" if port and port != _DEFAULT_PORTS[scheme] else "")
