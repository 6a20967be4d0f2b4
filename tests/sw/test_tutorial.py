"""docs/tutorial.md shows what its commands print: Python and `loralith`, in order, in one folder."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from loralith.cli import main


def masked(text: str) -> list[str]:
    """The words, without the numbers and the widths of columns that follow from the cycle model."""
    return re.sub(r"[-+]?[\d.,]*\d%?|-{2,}", "#", text).split()


def test_the_page_shows_what_its_commands_print(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (repo / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|text|console)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert {language for language, _ in blocks} == {"python", "text", "console"}
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    printed = ""
    for language, text in blocks:
        if language == "text":
            assert printed == text
            continue
        command, _, shown = text.partition("\n")
        with contextlib.redirect_stdout(io.StringIO()) as output:
            if language == "python":
                exec(text, names)
            else:
                program, *arguments = shlex.split(command.removeprefix("$ "))
                assert program == "loralith"
                assert main(arguments) == 0, command
        printed = output.getvalue()
        if language == "console":
            exact = "explain" not in command
            assert (printed == shown) if exact else masked(printed) == masked(shown), command
    waveform = (tmp_path / "layer.vcd").read_text()
    for signal in set(re.findall(r"`((?:m_axi|s_axi)_[a-z_]+|irq)`", page)):
        assert signal in waveform, signal
