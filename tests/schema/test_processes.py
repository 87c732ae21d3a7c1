"""Two processes with different hash seeds of Python come to the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import hashlib
from bandexa_core.schema import Encoding, Features, fit, to_bytes
from tests.schema.tables import rows
objects, auto = rows(300), Features(auto=True)
digest = hashlib.sha256()
for encoding in (Encoding.initial(auto), fit(auto, objects)):
    digest.update(encoding.to_bytes())
    digest.update(encoding.encode(objects).tobytes())
digest.update(b"".join(map(to_bytes, objects)))
print(hash("a"), digest.hexdigest())
"""


def test_encodings_do_not_depend_on_the_hash_of_the_process():
    root = Path(__file__).parents[2]
    found = []
    for seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            check=True,
            text=True,
        )
        found.append(answer.stdout.split())
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]
