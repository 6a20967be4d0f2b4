"""README and docs: links, anchors and paths exist. Their commands are in test_page_commands.py."""

import re
from pathlib import Path

import pytest

CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMES = re.compile(r"((?:`\w+`(?:, | and )?)+)\s(?:of|in)\s`([a-z]+/[a-z_/]+\.py)`")
"""Names in backquotes that a Python file is said to have."""
ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")),
]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def roots_of(repo: Path) -> list[Path]:
    """Folders that a path of a page may begin in."""
    return [repo, *(repo / part / "loralith" for part in ("gen", "hw", "verif", "sw")), repo / "verif"]


@pytest.mark.parametrize("name", PAGES)
def test_links_and_anchors_of_the_page_exist(name: str, repo: Path) -> None:
    page = repo / name
    text = page.read_text(encoding="utf-8")
    broken = []
    for link in LINK.findall(CODE.sub("", text)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_paths_of_the_page_exist(name: str, repo: Path) -> None:
    """Paths in backquotes that name a Python file or end as a folder: from the checkout, from a part's package or, in tables of folders,
    from a folder in it. `build/` holds what is generated."""
    roots = roots_of(repo)
    paths = re.findall(r"`([a-z]+/(?:[a-z_/]+(?:\.py|/))?)`", (repo / name).read_text(encoding="utf-8"))
    missing = [path for path in paths if not any((root / path).exists() for root in roots) and not path.startswith("build/")]
    assert [path for path in missing if not (path.endswith("/") and any(any(root.rglob(path)) for root in roots[1:]))] == []


@pytest.mark.parametrize("name", PAGES)
def test_names_are_in_the_files_that_the_page_says(name: str, repo: Path) -> None:
    """As of "`REPORTS` of `cli/report.py`"."""
    missing = []
    for names, path in NAMES.findall((repo / name).read_text(encoding="utf-8")):
        text = next((root / path).read_text(encoding="utf-8") for root in roots_of(repo) if (root / path).exists())
        missing += [f"{word} of {path}" for word in re.findall(r"\w+", names) if not re.search(rf"\b{word}\b", text)]
    assert missing == []
