"""`loralith flash` with a program in the loader's place: the command it gets, and each thing that goes wrong, named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from loralith import cli
from loralith.board import loader
from loralith.board.loader import PREAMBLE, LoaderError, latest_bitstream

BITSTREAM = b"\xff\x00Lattice Semiconductor Corporation Bitstream\x00Part: LFE5U-85F-6CABGA381\x00\xff" + PREAMBLE + bytes(64)


@pytest.fixture
def bitstream(tmp_path: Path) -> Path:
    path = tmp_path / "loralith.bit"
    path.write_bytes(BITSTREAM)
    return path


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a shell script in openFPGALoader's place."""

    def make(text: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "openFPGALoader").write_text(f"#!/bin/sh\n{text}\n")
        (folder / "openFPGALoader").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return make


@pytest.mark.parametrize("keep", [False, True])
def test_the_loader_gets_board_and_file(keep: bool, bitstream: Path, program, capsys: pytest.CaptureFixture[str]) -> None:
    program('echo "$@"')
    assert cli.main(["flash", str(bitstream), "--json", *(["--keep"] if keep else [])]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["said"] == f"--board ulx3s {'--write-flash ' if keep else ''}{bitstream}"
    assert said["kept"] is keep


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("unable to open ftdi device: -3 (device not found)", "no board is found on USB"),
        ("unable to open ftdi device: -4 (usb_open() failed)", "no permission to open the board's USB device"),
        ("unable to open ftdi device: -5 (unable to claim device)", "is in use"),
        ("unable to open ftdi device: -6 (ftdi_usb_reset failed)", "is in use"),
        ("JTAG init failed with: Unknown device with IDCODE: 0x41111043", "the FPGA does not take the bitstream"),
        ("something new", "openFPGALoader ended with status 3"),
    ],
)
def test_what_the_loader_says_is_decoded(said: str, message: str, bitstream: Path, program, capsys: pytest.CaptureFixture[str]) -> None:
    program(f'echo "{said}"; exit 3')
    assert cli.main(["flash", str(bitstream)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert said in told


def test_a_loader_that_hangs_ends(bitstream: Path, program, capsys: pytest.CaptureFixture[str]) -> None:
    program("exec sleep 60")
    assert cli.main(["flash", str(bitstream), "--timeout", "0.3"]) == 2
    assert "has not ended within 0.3 s" in capsys.readouterr().err


def test_a_loader_that_is_missing_is_named(bitstream: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(["flash", str(bitstream)]) == 2
    assert "apt-get install openfpgaloader" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no bitstream"),
        (b"text", "is no bitstream of an ECP5"),
        (BITSTREAM.replace(b"85F", b"25F"), "is a bitstream of LFE5U-25F-6CABGA381, and ulx3s-85f has a LFE5U-85F"),
    ],
)
def test_a_file_that_is_no_bitstream_of_the_board(
    content: bytes | None, message: str, tmp_path: Path, program, capsys: pytest.CaptureFixture[str]
) -> None:
    program("exit 0")
    path = tmp_path / "file.bit"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["flash", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_another_board_is_refused(bitstream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flash", str(bitstream), "--board", "zcu104"]) == 2
    assert "board must be one of ulx3s-85f, not 'zcu104'" in capsys.readouterr().err


def test_the_newest_bitstream_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "builds", lambda: tmp_path)
    with pytest.raises(LoaderError, match="loralith synth --board ulx3s-85f --part soc"):
        latest_bitstream()
    for age, name in enumerate(("new", "old")):
        path = tmp_path / "synth" / name / "loralith.bit"
        path.parent.mkdir(parents=True)
        path.write_bytes(BITSTREAM)
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    assert latest_bitstream().parent.name == "new"
