"""`loralith bring-up` on a board in Python that works, and on boards with one defect each: which check fails, and what is said."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable

import pytest

from helpers.model_board import CONFIG, SOC, WorkingBoard
from loralith import cli
from loralith.board import bring_up
from loralith.board.bring_up import CHECKS, BringUp, Outcome, SettingsError
from loralith.board.memory_test import address_pin
from loralith.spec.config import PRESETS
from loralith.spec.link import Status
from loralith.spec.registers import REGISTERS

PATIENCE = 3.0


def outcomes_of(path: str, patience: float = PATIENCE) -> list[Outcome]:
    return BringUp(CONFIG, path, patience=patience, march_bytes=2048).run()


def test_a_board_that_works_passes_all(terminal) -> None:
    told: list[Outcome] = []
    board = WorkingBoard()
    outcomes = BringUp(CONFIG, terminal(board.receive), patience=PATIENCE, march_bytes=2048).run(told.append)
    assert [outcome.name for outcome in outcomes] == list(CHECKS)
    assert [outcome.failure for outcome in outcomes] == [""] * len(CHECKS)
    assert all(outcome.ok for outcome in outcomes)
    assert told == outcomes
    assert "19 address lines" in outcomes[2].detail
    assert "bit-exact" in outcomes[4].detail
    assert "bit-exact" in outcomes[5].detail


def line_low(bit: int) -> Callable[[WorkingBoard], None]:
    return lambda board: setattr(board, "address_of", lambda offset: offset & ~(1 << bit))


def line_high(bit: int) -> Callable[[WorkingBoard], None]:
    return lambda board: setattr(board, "address_of", lambda offset: offset | 1 << bit)


def turned_bank(offset: int) -> int:
    """The row's pin A0 low, in a controller that turns banks by a row's low bits: bank 1 of row 1 becomes bank 1 of row 0."""
    return offset ^ (1 << 12 | 1 << 10) if offset & 1 << 12 else offset


def words(change: Callable[[int], int]) -> Callable[[WorkingBoard], None]:
    return lambda board: setattr(board, "data_of", change)


def register(name: str, value: int) -> Callable[[WorkingBoard], None]:
    return lambda board: board.registers.__setitem__(SOC[name] if name in SOC else REGISTERS[name].offset, value)


def spoil(memory: bytearray) -> None:
    memory[:] = bytes(byte ^ 1 for byte in memory)


DEFECTS = {
    "address line low": (line_low(14), "memory", "address lines without effect: bit 14, pin A2 (row)"),
    "address line high": (line_high(9), "memory", "address lines without effect: bit 9, pin A8 (column)"),
    "bank line": (line_low(11), "memory", "bit 11, pin BA1"),
    "a row's line that turns banks": (lambda b: setattr(b, "address_of", turned_bank), "memory", "bit 12, pin A0 (row)"),
    "data pin low": (words(lambda word: word & ~(1 << 5)), "memory", "D5 always reads 0"),
    "data pin high": (words(lambda word: word | 1 << 6), "memory", "D6 always reads 1"),
    "data pins joined": (words(lambda w: w | (w & 4) << 1 | (w & 8) >> 1), "memory", "D2 and D3 disturb each other"),
    "memory that never starts": (register("STATUS", 0), "memory", "has not started the chip"),
    "another hash behind the link": (register("CONFIG_HASH", 7), "identity", "configuration hash is 0x00000007"),
    "another machine": (lambda b: b.registers.__setitem__(SOC["ID"], 0x1234), "identity", "the system's ID register reads 0x00001234"),
    "no accelerator": (lambda b: b.registers.__setitem__(REGISTERS["ID"].offset, 0), "identity", "there is no loralith behind this port"),
    "another version": (register("VERSION", 0x010203), "identity", "interface version 1.2.3"),
    "a bus that fails": (lambda b: b.errors.__setitem__(SOC["ID"], Status.TIMEOUT), "identity", "the bus does not answer"),
    "logic that is too slow": (lambda b: setattr(b, "list_defect", spoil), "self-test", "the self-test list left"),
}


@pytest.mark.parametrize(("defect", "check", "message"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_fails_its_check_with_a_message_and_advice(defect, check: str, message: str, terminal) -> None:
    board = WorkingBoard()
    defect(board)
    outcomes = outcomes_of(terminal(board.receive))
    at = CHECKS.index(check)
    assert [outcome.ok for outcome in outcomes] == [True] * at + [False] + [None] * (len(CHECKS) - at - 1)
    assert message in outcomes[at].failure
    assert outcomes[at].advice


def test_a_place_of_memory_that_keeps_nothing_is_found_by_the_march(terminal) -> None:
    board = WorkingBoard()
    board.address_of = lambda offset: 0 if offset == 0x5A4 else offset
    failed = outcomes_of(terminal(board.receive))[2]
    assert failed.ok is False
    assert "at 0x40000" in failed.failure
    assert "was written and" in failed.failure


def test_another_configuration_is_named(terminal) -> None:
    board = WorkingBoard()
    board.identity["config_hash"] = PRESETS["ecp5"].hash
    failed = outcomes_of(terminal(board.receive))[3]
    assert f"{PRESETS['ecp5'].hash:#010x}" in failed.failure
    assert "preset ecp5: give --config ecp5" in failed.advice


@pytest.mark.parametrize(
    ("receive", "message"),
    [(lambda data: b"", "no board answers"), (lambda data: b"\x55\xaa\x00" * 8, "no loralith, or runs at another baud rate")],
    ids=["no answer", "garbage"],
)
def test_what_is_no_board_fails_the_link(receive, message: str, terminal) -> None:
    outcomes = outcomes_of(terminal(receive), patience=0.4)
    assert [outcome.ok for outcome in outcomes] == [False] + [None] * (len(CHECKS) - 1)
    assert message in outcomes[0].failure
    assert "loralith flash" in outcomes[0].advice


def test_a_port_that_another_program_has_is_named(terminal) -> None:
    path = terminal(WorkingBoard().receive)
    file = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "is in use by another program" in outcomes_of(path)[0].failure
    finally:
        os.close(file)


@pytest.mark.parametrize(("hz", "message"), [(80e6, ""), (100e6, "the clock runs at"), (0, "stands still")])
def test_a_real_port_s_clock_is_measured(hz: float, message: str, terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bring_up, "is_simulated", lambda path: False)
    monkeypatch.setattr(bring_up, "CLOCK_TOLERANCE", 0.1)  # of a model in Python on a busy machine
    board = WorkingBoard()
    board.hz = hz
    found = outcomes_of(terminal(board.receive))[1]
    assert found.ok is (message == "")
    assert message in found.failure


def test_the_command_s_status_and_json(terminal, capsys: pytest.CaptureFixture[str]) -> None:
    board = WorkingBoard()
    words = ["bring-up", "--device", f"serial:{terminal(board.receive)}", "--march-bytes", "256", "--json"]
    assert cli.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert [check["name"] for check in report["checks"]] == list(CHECKS)
    board.data_of = lambda word: word & ~1
    assert cli.main(words[:-1]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("memory: D0 always reads 0\nwhat to do: ")
    assert "not tested" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "verilator"], "device must be serial:<port>, the board's, not 'verilator'"),
        (["--patience", "0"], "patience must be in 0.1..3600 s, not 0"),
        (["--march-bytes", "6"], "march-bytes must be a multiple of 4 above 0, not 6"),
        (["--config", "nothing"], "nothing"),
    ],
)
def test_wrong_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bring-up", *words]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(SettingsError):
        BringUp(CONFIG, "/dev/null", march_bytes=3)


def test_pins_of_address_bits() -> None:
    assert [address_pin(bit) for bit in (1, 9, 10, 11, 12, 24)] == ["A0 (column)", "A8 (column)", "BA0", "BA1", "A0 (row)", "A12 (row)"]
