"""Both languages have the same calls."""

from __future__ import annotations

import inspect
import re

from bandexa_client.calls import Calls
from tests.docs.pages import ROOT

CLIENT = ROOT / "clients" / "typescript" / "src" / "client.ts"


def test_every_call_of_the_python_client_is_one_of_the_typescript_client() -> None:
    """If this fails, add the method to client.ts, and run `make clients` for its types."""
    python = {name for name, _ in inspect.getmembers(Calls, callable) if not name.startswith("_")}
    text = CLIENT.read_text()
    found = set(re.findall(r"^  (?:async )?([a-z]\w*)\(", text, re.MULTILINE)) - {"constructor"}
    assert {re.sub(r"_(.)", lambda match: match[1].upper(), name) for name in python} == found
