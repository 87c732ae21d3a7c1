"""The documentation builds as a site: every page is in it, and every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.slow
def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    command += ["-c", "docs/site", "docs", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in [*DOCS.glob("*.md"), *DOCS.glob("decisions/*.md")]:
        assert (site / page.relative_to(DOCS)).with_suffix(".html").is_file(), page
    first = (site / "README.html").read_text()
    sidebar = first.partition("sidebar-tree")[2].partition("</aside>")[0]
    for page in DOCS.glob("*.md"):
        if page.name != "README.md":
            assert f'href="{page.stem}.html"' in sidebar, f"{page.name} is in no table of README.md"
    assert "url=README.html" in (site / "index.html").read_text()
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|link)\b[^>]*?\b(?:src|href)="(https?:[^"]*)"', text)
        assert loaded == [], page
    assert '"runbook"' in (site / "searchindex.js").read_text()
