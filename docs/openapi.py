"""Prints the OpenAPI document of a server that has keys: `python -m docs.openapi`.

Types of clients are generated from it. It has no version: that is git's, and differs with every
commit.
"""

from __future__ import annotations

import json
from typing import Any

from service.http.app import create_app
from service.settings import KeySetting, Settings


def document() -> dict[str, Any]:
    """Return the document."""
    key = KeySetting(name="any", sha256="0" * 64, scopes=("read",))
    found = create_app(Settings(keys=(key,))).openapi()
    return found | {"info": found["info"] | {"version": "of the server"}}


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))
