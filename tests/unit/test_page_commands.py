"""Every `loralith ...` and `make ...` of the pages: the command line takes it, the Makefile has it, and the quick ones are run."""

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from loralith.cli import EXPECTED, argument_checks, build_parser, main

FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^ *(?:\$ )?(?:\.venv/bin/)?((?:loralith|make) [^#\n]*)", re.MULTILINE)
INDENTED = re.compile(r"^ {4,}(?:\$ )?(?:\.venv/bin/)?((?:loralith|make) [^#\n]*)", re.MULTILINE)
SPAN = re.compile(r"`((?:\.venv/bin/)?(?:loralith|make)(?: [^`]*)?)`")
OPTION = re.compile(r"`(--?[A-Za-z][\w-]*)[^`\n]*`")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
VARIABLE = re.compile(r"^([A-Z_]+) \??:?=", re.MULTILINE)

NUMBERS = {"N": "1", "S": "0", "T,I,O,R": "8,8,8,2"}
"""Letters that stand for a number in the pages, and one such number."""
FOREIGN = {
    "docs/fpga.md": {"--run"},  # nextpnr
    "docs/placement.md": {"--write", "--sdf"},  # nextpnr
    "docs/verification.md": {"-Os", "-fno-dfg", "--expand-limit", "-O2", "-fno-split", "--comp-limit-members", "-mprefer-vector-width"},
}
"""Options of other programs, by the page that tells of them."""
QUICK = (
    "loralith doctor",
    "loralith explain --config tiny --layer 8,8,8,2",
    "loralith explain --layer T,I,O,R",
    "loralith bench shapes --config paper --subset kv --modelled",
    "loralith report results",
    "loralith report rtl",
)
"""Commands of the pages that are run here. The tests of other commands run them: test_tutorial.py, test_gen.py, test_plan.py and more."""


def pages(repo: Path) -> list[Path]:
    own = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")
    return [*(repo / name for name in own), *sorted((repo / "docs").rglob("*.md"))]


def shown(text: str) -> Iterator[tuple[int, str]]:
    """Line and words of each command of a page: lines of blocks, fenced or indented, and what stands in backquotes."""
    prose = text
    for block in FENCED.finditer(text):
        for found in LINE.finditer(block[0]):
            yield text.count("\n", 0, block.start() + found.start(1)) + 1, found[1].strip()
        prose = prose.replace(block[0], re.sub(r"[^\n]", " ", block[0]))
    for pattern in (INDENTED, SPAN):
        for found in pattern.finditer(prose):
            yield text.count("\n", 0, found.start(1)) + 1, " ".join(found[1].split()).removeprefix(".venv/bin/")


def commands(repo: Path, program: str) -> list[tuple[str, list[str]]]:
    """Place ("docs/usage.md:17") and words behind `program` of every command of the pages."""
    found = []
    for page in pages(repo):
        for line, command in shown(page.read_text(encoding="utf-8")):
            words = shlex.split(command)
            if words[0] == program:
                found.append((f"{page.relative_to(repo)}:{line}", words[1:]))
    return found


def refusal(parser: argparse.ArgumentParser, words: list[str]) -> str | None:
    """Why the command line refuses the words, or None. Words without any option may name a command alone, as prose does."""
    words = [NUMBERS.get(word, word) for word in words]
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            args = parser.parse_args(words)
        except SystemExit as left:
            if left.code == 0:
                return None
            told = printed.getvalue().strip().splitlines()[-1]
            if "are required" in told and all(re.fullmatch(r"[a-z-]+", word) and word[0] != "-" for word in words):
                return refusal(parser, [*words, "--help"])
            return told
    if any(re.fullmatch(r"[A-Z]+", word) for word in words):
        return None  # a name that the reader chooses
    try:
        argument_checks.check(args)
    except EXPECTED as error:
        return str(error)
    return None


def option_names(parser: argparse.ArgumentParser) -> set[str]:
    names = set()
    for action in parser._actions:
        names.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                names |= option_names(part)
    return names


def test_the_command_line_takes_every_command_of_the_pages(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands(repo, "loralith")
    assert len(found) > 150
    monkeypatch.chdir(tmp_path)
    parser = build_parser()
    refused = [(place, " ".join(words), refusal(parser, words)) for place, words in found]
    assert [f"{place}: loralith {words}: {told}" for place, words, told in refused if told] == []


def test_every_option_that_the_pages_name_is_one(repo: Path) -> None:
    known = option_names(build_parser())
    unknown = []
    for page in pages(repo):
        name, text = str(page.relative_to(repo)), page.read_text(encoding="utf-8")
        for option in OPTION.finditer(text):
            if option[1] not in known | FOREIGN.get(name, set()):
                unknown.append(f"{name}:{text.count(chr(10), 0, option.start()) + 1}: {option[1]}")
    assert unknown == []


def test_the_makefile_has_every_target_and_variable_of_the_pages(repo: Path) -> None:
    makefile = (repo / "Makefile").read_text(encoding="utf-8")
    targets, variables = set(TARGET.findall(makefile)), set(VARIABLE.findall(makefile))
    found = commands(repo, "make")
    assert len(found) > 20
    unknown = []
    for place, words in found:
        for word in words:
            name, is_variable, _ = word.partition("=")
            if name not in (variables if is_variable else targets):
                unknown.append(f"{place}: make {' '.join(words)}: no {'variable' if is_variable else 'target'} {name}")
    assert unknown == []


@pytest.mark.parametrize("command", QUICK)
def test_a_quick_command_of_the_pages_runs(
    command: str, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command)[1:]
    assert words in [words for _, words in commands(repo, "loralith")], f"no page shows `{command}`: take it out of QUICK"
    monkeypatch.chdir(tmp_path)
    assert main([NUMBERS.get(word, word) for word in words]) == 0
    assert capsys.readouterr().out.strip()
    assert list(tmp_path.iterdir()) == []
