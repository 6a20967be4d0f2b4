"""The docs site of `make docs`: it builds strictly, and no page needs the network or has a link that leads nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


class Links(HTMLParser):
    """What a page refers to: `links` are followed by a reader, `loaded` is fetched with the page; `names` may be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id" and value:
                self.names.add(value)
            elif key == "href" and value:
                (self.loaded if tag == "link" else self.links).append(value)
            elif key == "src" and value:
                self.loaded.append(value)


def dead(page: Path, link: str, pages: dict[Path, Links]) -> bool:
    """Whether a link of a page leads to a file or a place in a page that is not there."""
    parts = urlsplit(link)
    if parts.scheme:
        return False
    target = Path(os.path.normpath(page.parent / unquote(parts.path))) if parts.path else page
    return not target.exists() or (bool(parts.fragment) and target in pages and unquote(parts.fragment) not in pages[target].names)


@pytest.fixture(scope="module")
def site(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=repo, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def test_no_link_of_the_site_is_dead(site: Path) -> None:
    # The page for an unknown address has links from the site's root.
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert sum(len(page.links) for page in pages.values()) > len(pages)
    found = [f"{path.relative_to(site)}: {link}" for path, page in pages.items() for link in page.links if dead(path, link, pages)]
    assert not found, "\n".join(found)
    fetched = [f"{path.relative_to(site)}: {link}" for path, page in pages.items() for link in page.loaded if urlsplit(link).netloc]
    assert not fetched, "a page loads from elsewhere:\n" + "\n".join(fetched)


def test_every_page_is_on_the_site_and_docstrings_are(site: Path, repo: Path) -> None:
    pages = {path.relative_to(repo / "docs").with_suffix(".html") for path in (repo / "docs").rglob("*.md")}
    assert {path for path in pages if not (site / path).is_file()} == set()
    text = (site / "api" / "loralith.device.html").read_text(encoding="utf-8")
    assert 'id="loralith.device.open_device"' in text
    assert 'id="loralith.device.list_device.ListDevice"' in text


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page, other = tmp_path / "a.html", tmp_path / "b.html"
    other.write_text('<h1 id="there">b</h1>', encoding="utf-8")
    page.write_text("", encoding="utf-8")
    pages = {page: Links(page.read_text(encoding="utf-8")), other: Links(other.read_text(encoding="utf-8"))}
    answers = {link: dead(page, link, pages) for link in ("b.html", "b.html#there", "b.html#gone", "c.html", "#gone", "https://x.org/c")}
    assert answers == {"b.html": False, "b.html#there": False, "b.html#gone": True, "c.html": True, "#gone": True, "https://x.org/c": False}
