"""README and docs as tests see them: pages, their code blocks, and which of those take long."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"bash", "python", "toml", "json", "text"}

# Blocks with such a line are not run with the other tests, but by `make docs-check`.
SLOW = {
    r"^make (demo|test|check|bench|proof|docker)": "builds or measures for minutes",
    r"^(\.venv/bin/)?bandexa simulate": "plays thousands of steps",
    r"^(\.venv/bin/)?bandexa bench": "measures for minutes",
    r"^(\.venv/bin/)?python -m benchmarks": "measures for minutes",
    r"^make docs": "runs these very blocks",
}
# Blocks with such a line start what lives until it is ended.
SERVES = re.compile(r"^(make serve|(\.venv/bin/)?bandexa serve)", re.MULTILINE)
# Blocks with such a line need a container engine: `make docker-check` runs what is in them.
CONTAINERS = re.compile(r"^(\w+=\S+ )*(docker|podman|buildah)\b", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def slow(self) -> str | None:
        """Why it takes long, None where it does not."""
        for pattern, reason in SLOW.items():
            if self.language == "bash" and re.search(pattern, self.text, re.MULTILINE):
                return reason
        return None

    @property
    def serves(self) -> bool:
        return self.language == "bash" and bool(SERVES.search(self.text))

    @property
    def in_container(self) -> bool:
        return self.language == "bash" and bool(CONTAINERS.search(self.text))


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = path.read_text()
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        name = str(path.relative_to(ROOT))
        found.append(Block(name, line, match.group(2).strip(), match.group(3)))
    return found


ALL = [block for page in PAGES for block in blocks(page)]
