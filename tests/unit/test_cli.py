"""The command line's manners: what goes to which stream, exit statuses, and what is not imported."""

import argparse
import json
import subprocess
import sys

import pytest

import loralith
from loralith import cli
from loralith.cli import doctor
from loralith.errors import LoralithError, StopRequested
from loralith.spec.config import ConfigError
from loralith.spec.fields import FieldError
from loralith.spec.scheme import SchemeError
from loralith.toolchain import SYSTEM_TOOLS


def test_doctor_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {"python", "verilator", *SYSTEM_TOOLS} <= {check["name"] for check in report["checks"]}


def test_doctor_fails_and_names_the_package_of_a_missing_tool(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["doctor", "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert not checks["g++"]["ok"]
    assert "apt-get install g++" in checks["g++"]["detail"]


def test_doctor_table_holds_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("python", "g++", "verilator", "torch"))


@pytest.mark.parametrize("call", ["main(['doctor', '--json'])", "build_parser().format_help()"])
def test_what_needs_neither_torch_nor_amaranth_imports_neither(call: str) -> None:
    code = f"import sys; from loralith.cli import build_parser, main; {call}; assert not {{'torch', 'amaranth'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("raised", "status", "printed"),
    [
        (LoralithError("no such board"), 2, "no such board"),
        (ConfigError("rows must be a power of two in 2..64, not 12"), 2, "rows must be a power of two in 2..64, not 12"),
        (FieldError("LOAD.rows must be in 0..65535, not -1"), 2, "LOAD.rows must be in 0..65535, not -1"),
        (SchemeError("call must be in 0..255, not 256"), 2, "call must be in 0..255, not 256"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (StopRequested("stopped after step 3"), 130, "stopped after step 3"),
    ],
)
def test_errors_have_a_status_and_no_traceback(
    raised: BaseException, status: int, printed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise raised

    monkeypatch.setattr(doctor, "run", fail)
    assert cli.main(["doctor"]) == status
    captured = capsys.readouterr()
    assert captured.err == f"error: {printed}\n"
    assert captured.out == ""


@pytest.mark.parametrize("defect", [ZeroDivisionError, ValueError])
def test_defects_keep_their_traceback(defect: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise defect

    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(defect):
        cli.main(["doctor"])


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "loralith.cli", command, "--help"], capture_output=True, text=True, check=True)
    assert "--json" in done.stdout


def test_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train-harder"])
    assert stop.value.code == 2
    assert "train-harder" in capsys.readouterr().err


def test_unknown_attribute_is_named() -> None:
    with pytest.raises(AttributeError, match="'open_devices'"):
        loralith.open_devices  # noqa: B018


def test_lazy_attributes_are_listed() -> None:
    assert {"open_device", "attach", "detach", "LoralithError"} <= set(dir(loralith))
