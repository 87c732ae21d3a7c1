"""Sphinx builds the documentation as a site: `make docs-site`.

The pages are written for whoever reads them in the repository, without a word of Sphinx. What a
site needs beside them, its order, is added here as they are read. A link that leads nowhere ends
the build. Everything that a page loads is in the site, so it works without a network, its search
too.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

project = "Bandexa"
extensions = ["myst_parser"]
root_doc = "README"
exclude_patterns = ["site/*.py", "**/__pycache__"]
html_theme = "furo"
html_title = "Bandexa"
html_copy_source = False
html_show_sphinx = False
myst_heading_anchors = 4
# Words of a shell session and of settings are no language that has a lexer of its own.
suppress_warnings = ["misc.highlighting_failure"]

_SECTION = re.compile(r"^## (.+)$", re.M)
_PAGE = re.compile(r"\]\(([\w/-]+)\.md[)#]")
_TREE = "\n```{toctree}\n:hidden:\n:caption: %s\n\n%s\n```\n"


def setup(app: Sphinx) -> None:
    """Add the hook."""
    app.connect("source-read", add_order)
    app.connect("build-finished", add_front)


def add_front(app: Sphinx, error: Exception | None) -> None:
    """Lead whoever opens the folder to the first page, which is the README of `docs/`."""
    if error is None:
        front = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        (app.outdir / "index.html").write_text(front)


def add_order(app: Sphinx, page: str, source: list[str]) -> None:
    """Append the pages that a page of contents leads to, in the order of its tables."""
    source[0] = source[0].replace("](../README.md", "](site/project.md")
    source[0] = source[0].replace("](../CHANGELOG.md", "](site/changes.md")
    if page == root_doc:
        parts = _SECTION.split(source[0])[1:]
        seen: set[str] = set()
        for title, text in zip(parts[::2], parts[1::2], strict=True):
            names = [name for name in dict.fromkeys(_PAGE.findall(text)) if name not in seen]
            seen.update(names)
            if names:
                source[0] += _TREE % (title, "\n".join(names))
        source[0] += _TREE % ("The project", "site/project\nsite/changes")
    elif page == "decisions/README":
        records = sorted(name for name in app.env.found_docs if re.match(r"decisions/\d", name))
        names = "\n".join(name.removeprefix("decisions/") for name in records)
        source[0] += _TREE % ("Decisions", names)
