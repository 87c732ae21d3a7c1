"""What this machine's pip needs to reach its package registries, for builds that must not keep it.

Settings of every file and of the environment are merged as pip merges them and written to one file,
which a build sees at /etc/pip.conf for as long as it runs. Nothing here is stored in an image.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

# Later sections win, as in pip.
_SECTIONS = ("global", "install", ":env:")
_WHERE = ("index-url", "extra-index-url", "find-links")
_HOW = ("no-index", "trusted-host", "cert", "client-cert", "proxy", "timeout", "default-timeout")
_PUBLIC = ("pypi.org", "files.pythonhosted.org")

Settings = Mapping[str, tuple[str, ...]]


def pip_settings() -> Settings:
    """Return where pip looks for packages on this machine, and how; each value is a list."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found: dict[str, tuple[str, ...]] = {}
    for section in _SECTIONS:
        for line in listed:
            key, _, value = line.partition("=")
            name = key.removeprefix(f"{section}.")
            if name != key and name in _WHERE + _HOW:
                found[name] = tuple(str(ast.literal_eval(value)).split())
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if bundle:
        found.setdefault("cert", (bundle,))
    return found


def without_folders(settings: Settings) -> Settings:
    """Return the settings less the places that are folders of this machine."""
    kept = {
        name: tuple(word for word in words if name not in _WHERE or _folder(word) is None)
        for name, words in settings.items()
    }
    return {name: words for name, words in kept.items() if words}


def write(settings: Settings, path: Path) -> None:
    """Write settings as a pip.conf."""
    lines = [f"{name} = {' '.join(words)}" for name, words in settings.items()]
    path.write_text("\n".join(["[global]", *lines, ""]))


def local_paths(settings: Settings) -> list[str]:
    """Return the files and folders that the settings name, shortest paths first."""
    found: set[Path] = set()
    for name in ("index-url", "extra-index-url"):
        # The pages of an index may link to what lies beside it.
        found |= {folder.parent for word in settings.get(name, ()) if (folder := _folder(word))}
    found |= {folder for word in settings.get("find-links", ()) if (folder := _folder(word))}
    files = (Path(word) for name in ("cert", "client-cert") for word in settings.get(name, ()))
    found |= {path for path in files if path.is_file()}
    return sorted(map(str, found), key=len)


def traces(settings: Settings) -> list[str]:
    """Return the words that must not be found in an image: hosts that are not public, folders."""
    words = [word for name in (*_WHERE, "proxy") for word in settings.get(name, ())]
    hosts = {urlsplit(word).hostname for word in words} - {None, *_PUBLIC}
    return sorted({host for host in hosts if host} | {str(f) for w in words if (f := _folder(w))})


def _folder(word: str) -> Path | None:
    path = word.removeprefix("file://")
    return Path(path) if path.startswith("/") and Path(path).is_dir() else None
