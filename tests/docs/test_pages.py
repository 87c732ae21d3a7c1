"""Pages are short, readable lines, and name files and classes that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import FENCE, PAGES, ROOT

DOCS = ROOT / "docs"
RECORDS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
TABLE_WIDTH, WIDTH = 160, 120


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_lines_can_be_read() -> None:
    too_long = [
        f"{named(page)}:{number}"
        for page in (*PAGES, ROOT / "CHANGELOG.md")
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > (TABLE_WIDTH if line.startswith("|") else WIDTH)
    ]
    assert too_long == []


def test_every_file_with_slow_tests_is_on_the_page_of_tests() -> None:
    """A promise that `make test` does not check is listed, with what checks it there."""
    page = (DOCS / "testing.md").read_text()
    slow = re.compile(r"mark\.slow\b|\*slow\(")
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    absent = [named(path) for path in files if slow.search(path.read_text())]
    assert [name for name in absent if Path(name).name not in page] == []


def test_a_page_begins_with_what_its_reader_can_do() -> None:
    for page in sorted(DOCS.glob("*.md")):
        title, _, rest = page.read_text().partition("\n\n")
        assert title.startswith("# "), named(page)
        assert rest.startswith("After this page you "), named(page)


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_a_decision_has_context_choice_and_consequence() -> None:
    for record in RECORDS:
        text = record.read_text()
        assert text.startswith(f"# {record.name[:4]}. "), named(record)
        sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert sections == ["Context", "Choice", "Consequence"], named(record)


def test_the_index_of_decisions_is_complete_and_in_order() -> None:
    index = (DOCS / "decisions" / "README.md").read_text()
    assert re.findall(r"^- \[\d+\]\((.*?)\)", index, re.MULTILINE) == [r.name for r in RECORDS]
    assert [int(record.name[:4]) for record in RECORDS] == [*range(1, len(RECORDS) + 1)]


@pytest.mark.parametrize("page", ["architecture.md", "development.md", "glossary.md"])
def test_files_that_a_page_names_exist(page: str) -> None:
    text = FENCE.sub("", (DOCS / page).read_text())
    paths = re.findall(r"`([a-z_]+/[\w/.]*)`", text)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_glossary_names_what_its_files_define() -> None:
    rows = re.findall(r"`(\w+)` in `([\w/.]+\.py)`", (DOCS / "glossary.md").read_text())
    assert len(rows) > 20
    for name, path in rows:
        defined = rf"^( *)(async )?(class|def) {name}\b|^{name}\b.* = "
        assert re.search(defined, (ROOT / path).read_text(), re.MULTILINE), f"{name} in {path}"
