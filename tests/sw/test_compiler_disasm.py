"""Command lists as text, both ways, and `loralith disasm`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from loralith import cli
from loralith.cli import build_parser
from loralith.compiler.lists.assembly import AssemblyError, assemble, disassemble, format_command
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.schedules.matmul import compile_matmul, plan_matmul
from loralith.errors import LoralithError
from loralith.spec.commands import COMMANDS, Command, LoadTarget, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.fields import FieldError


def test_round_trip_of_every_field() -> None:
    rng = np.random.default_rng(0)
    commands = []
    for opcode, record in COMMANDS.items():
        for _ in range(20):
            values = {f.name: int(rng.integers(0, 1 << min(f.width, 62))) for f in record.fields.values() if f.name != "opcode"}
            commands.append(Command.make(opcode, **values))
    text = disassemble(CommandList.of(commands))
    assert assemble(text) == CommandList.of(commands)
    assert CommandList.unpack(CommandList.of(commands).pack()) == CommandList.of(commands)


def test_text_is_readable() -> None:
    command = Command.make(
        Opcode.LOAD, target=LoadTarget.RIGHT, rows=8, row_bytes=32, row_stride=64, address=0x1000, wait=0b101, transpose=1
    )
    assert format_command(command, 3, "W") == (
        "    3  LOAD    wait={0,2} target=RIGHT transpose=1 rows=8 address=0x1000 row_bytes=32 row_stride=64  ; "
        "W: right row 0 <- 8 x 32 bytes at 0x1000, transposed"
    )
    command = Command.make(Opcode.COMPUTE, m_rows=5, n_cols=4, k0=8, fold_log2=2, out_mode=1, to_left=1, acc_read=1)
    assert format_command(command).endswith("; 5 x 4 outputs over k = 8, fold 4, plus acc -> left")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LOAD rows=1\nJUMP", "line 2: expected one of LOAD, COMPUTE, STORE, VECTOR, not 'JUMP'"),
        ("LOAD colour=1", "line 1: LOAD has no field 'colour'"),
        ("LOAD rows", "line 1: expected name=value, not 'rows'"),
        ("LOAD rows=1 rows=2", "line 1: rows stands twice"),
        ("LOAD rows=65536", "line 1: LOAD.rows must be in 0..65535"),
        ("LOAD rows=many", "line 1: invalid literal"),
        ("7", "line 1: expected one of"),
    ],
)
def test_assembly_errors_name_the_line(text: str, message: str) -> None:
    with pytest.raises(AssemblyError, match=message):
        assemble(text)


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    config = PRESETS["tiny"]
    path = tmp_path / "product.bin"
    path.write_bytes(compile_matmul(plan_matmul(9, 5, 40, config), 0, 4096, 8192, config).pack())
    return path


def run(*arguments: str) -> int:
    args = build_parser(["disasm"]).parse_args(["disasm", *arguments])
    return args.run(args)


def test_command_prints_what_assembles_to_the_same_list(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(compiled)) == 0
    assert assemble(capsys.readouterr().out).pack() == compiled.read_bytes()


def test_command_prints_json(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(compiled), "--json") == 0
    records = json.loads(capsys.readouterr().out)["commands"]
    again = CommandList.of(Command.make(Opcode[r["opcode"]], **r["fields"]) for r in records)
    assert again.pack() == compiled.read_bytes()


def test_command_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "bad.bin"
    for content, message in ((b"", "not 0 bytes"), (b"x" * 130, "not 130 bytes"), (bytes(128), "command 0: opcode 0 is unknown")):
        path.write_bytes(content)
        with pytest.raises(LoralithError, match=message):
            run(str(path))
    with pytest.raises(LoralithError, match="No such file"):
        run(str(tmp_path / "absent"))


def test_a_list_needs_whole_descriptors() -> None:
    with pytest.raises(ValueError, match="multiple of 128"):
        CommandList.unpack(bytes(100))
    with pytest.raises(FieldError):
        CommandList.unpack(bytes(128))
    with pytest.raises(ValueError, match="one note per command"):
        CommandList((Command.make(Opcode.LOAD),), ("a", "b"))


def test_disasm_is_a_command() -> None:
    assert "disasm" in cli.COMMANDS
