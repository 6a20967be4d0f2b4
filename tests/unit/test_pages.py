"""README and docs: links, anchors and paths exist, and the commands in their blocks are accepted by the command line."""

import re
import shlex
from pathlib import Path

import pytest

from loralith.cli import build_parser

CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^(?:\$ | {4})?(?:\.venv/bin/)?loralith ([^#\n]+)", re.MULTILINE)
NAMES = [
    "architecture",
    "board",
    "dataflow",
    "emoji",
    "finetune",
    "first-board",
    "fpga",
    "glossary",
    "link",
    "machine",
    "models",
    "numerics",
    "programmers-guide",
    "step",
    "step_graph",
    "vector_unit",
    "verification",
]
NAMES += ["methods/hollowed-net", "methods/lora", "methods/tuneqdm", "methods/zoodip", "tutorial", "usage"]
PAGES = ["README.md", *sorted(f"docs/{name}.md" for name in NAMES)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


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
    """The paths in backquotes that name a Python file, from the checkout or from a part's package."""
    roots = [repo, *(repo / part / "loralith" for part in ("gen", "hw", "verif", "sw")), repo / "verif"]
    paths = re.findall(r"`([a-z]+/[a-z_/]+\.py)`", (repo / name).read_text(encoding="utf-8"))
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == []


def commands(text: str) -> list[str]:
    """The arguments of each `loralith` in a page's blocks, fenced or indented."""
    blocks = CODE.findall(text) + [line for line in text.splitlines() if line.startswith("    ")]
    return COMMAND.findall("\n".join(blocks))


def test_commands_of_the_pages_parse(repo: Path) -> None:
    found = [(name, command) for name in PAGES for command in commands((repo / name).read_text(encoding="utf-8"))]
    assert len(found) > 15
    refused = []
    for name, command in found:
        try:
            build_parser().parse_args(shlex.split(command))
        except SystemExit:
            refused.append((name, command))
    assert refused == []
