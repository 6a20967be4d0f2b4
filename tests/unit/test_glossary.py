"""docs/glossary.md: each term once, in order, and used elsewhere."""

import re
from pathlib import Path

SOURCES = (("docs", "*.md"), ("gen", "*.py"), ("hw", "*.py"), ("sw", "*.py"), ("verif", "*.py"))


def rows(repo: Path) -> list[list[str]]:
    """The cells of the glossary's rows, the heading left out."""
    lines = [line for line in (repo / "docs/glossary.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_terms_are_unique_complete_and_in_order(repo: Path) -> None:
    terms = [row[0] for row in rows(repo)]
    assert terms == sorted(set(terms), key=str.casefold)
    assert len(terms) > 40
    assert [row for row in rows(repo) if len(row) != 4 or not (row[0] and row[1] and row[3])] == []


def test_every_term_is_used_outside_the_glossary(repo: Path) -> None:
    files = (path for folder, name in SOURCES for path in (repo / folder).rglob(name) if path.name != "glossary.md")
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    unused = [row[0] for row in rows(repo) if not re.search(rf"\b{re.escape(row[0])}(s|es)?\b".replace(r"\ ", r"\s+"), text, re.IGNORECASE)]
    assert unused == []
