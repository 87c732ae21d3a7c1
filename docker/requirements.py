"""Print what pyproject.toml requires but torch and torchvision, which are built for a device.

A step of the image build that changes only when requirements do, so that its layers are kept.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

BUILT_FOR_A_DEVICE = ("torch", "torchvision")


def main() -> int:
    """Print requirements, one a line."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        if re.split(r"[^A-Za-z0-9_.-]", requirement)[0] not in BUILT_FOR_A_DEVICE:
            print(requirement)
    return 0


if __name__ == "__main__":
    sys.exit(main())
