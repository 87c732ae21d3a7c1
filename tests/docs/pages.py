"""README and docs as the tests read them: pages, their code blocks, and which of those are slow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# `docs/site` has what the site is made with: its only page includes README.md.
PAGES = (
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "site"),
)
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"bash", "python", "ts", "toml", "json", "text"}

# Blocks with such a line take minutes: `.ci/run` runs them, `make test` does not.
SLOW = re.compile(
    r"^(make |(\.venv/bin/)?bandexa simulate\b|(\.venv/bin/)?python -m benchmarks)",
    re.MULTILINE,
)
# Lines of such blocks that no test runs: those of a tier, and what takes hours.
TIERS = re.compile(
    r"^(make (test|check|proof|bench|clients|dist|docker-check|pictures)\b|\.ci/run)"
)
HOURS = re.compile(r"^(\.venv/bin/)?python -m benchmarks\b(?!.*--quick)")
# What a page has installed from a registry, the environment of the tests has.
INSTALLS = re.compile(r"^pip install\b")
# Blocks with such a line start a server, which serves until a signal ends it.
SERVES = re.compile(r"^(make serve|(\w+=\S+ )*(\.venv/bin/)?bandexa serve)", re.MULTILINE)
# Commands in the middle of a sentence: they name what exists, and blocks run what they do.
INLINE = re.compile(r"(?<!`)`((?:\w+=\S+ )*(?:bandexa|make|python -m benchmarks) [^`]+)`(?!`)")
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
    def serves(self) -> bool:
        return self.language == "bash" and bool(SERVES.search(self.text))

    @property
    def slow(self) -> bool:
        return self.language == "bash" and not self.serves and bool(SLOW.search(self.text))

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


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    text = FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = ["".join(c for c in title.lower() if c.isalnum() or c in " -_") for title in titles]
    return {title.replace(" ", "-") for title in plain}
