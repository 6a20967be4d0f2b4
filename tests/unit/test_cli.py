"""The command line's manners: what goes to which stream, exit statuses, and what is not imported."""

import argparse
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import loralith
from loralith import cli
from loralith.cli import doctor
from loralith.cli.report import REPORTS
from loralith.errors import LoralithError, StopRequested
from loralith.files import FileError
from loralith.spec.config import ConfigError
from loralith.spec.fields import FieldError
from loralith.spec.scheme import SchemeError
from loralith.spec.version import VERSION
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
        (FileNotFoundError(2, "No such file or directory", "a/b"), 2, "a/b: No such file or directory"),
        (PermissionError(13, "Permission denied", "a", None, "b"), 2, "a and b: Permission denied"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (FileError("output x is a folder"), 2, "output x is a folder"),
        (MemoryError(), 2, "not enough memory; smaller sizes need less"),
        (MemoryError("Unable to allocate 9 GiB"), 2, "not enough memory: Unable to allocate 9 GiB"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't"), 2, "not enough memory: [enforce fail] DefaultCPUAllocator: can't"),
        (
            ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"),
            2,
            "this needs torch, which is not installed; `pip install 'loralith[torch]'` installs it",
        ),
        (
            ModuleNotFoundError("No module named 'amaranth'", name="amaranth"),
            2,
            "this needs amaranth, which is not installed; `pip install 'loralith[sim]'` installs it",
        ),
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


@pytest.mark.parametrize("defect", [ZeroDivisionError, ValueError, RuntimeError, ImportError, ModuleNotFoundError])
def test_defects_keep_their_traceback(defect: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise defect

    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(defect):
        cli.main(["doctor"])


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "loralith", command, "--help"], capture_output=True, text=True, check=True)
    assert "--json" in done.stdout


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_computed_where_its_name_says(name: str) -> None:
    """`SUBJECT` is `<subject>_report`, with a title and a page (docs/architecture.md, Where a change goes)."""
    subject = import_module(f"loralith.cli.report_{name}").SUBJECT
    assert subject.endswith("_report")
    module = import_module(subject)
    assert callable(module.title)
    assert callable(module.page)


def worker(command: str) -> str:
    """The module whose `run` does the command's work."""
    return "loralith.gen.cli" if command == "gen" else f"loralith.cli.{command.replace('-', '_')}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sim --steps 0", "steps must be at least 1, not 0"),
        ("sim --seconds -1", "seconds must be above 0 and finite, not -1"),
        ("sim --seconds nan", "seconds must be above 0 and finite, not nan"),
        ("finetune --lr 0", "lr must be above 0"),
        ("finetune --seed -1", "seed must be at least 0, not -1"),
        ("finetune --curve-every -1", "curve-every must be at least 0, not -1"),
        (
            "finetune --device gpu",
            "device must be reference, direct, verilator, serial:<port> or pynq:<bitfile>, or fp32 for plain torch, not 'gpu'",
        ),
        ("soak --device fp32", "device must be reference, direct, verilator, serial:<port> or pynq:<bitfile>, not 'fp32'"),
        ("finetune --config huge", "config must be one of tiny"),
        ("finetune --images 140", "images must be an integer from 1 to 139, not 140"),
        ("finetune --digit 3", "digit must be 8 or 9, the classes that the model has never seen, not 3"),
        ("finetune --targets to_z", "targets must be all, kv or some of"),
        ("finetune --rank-pattern to_q", "a pattern is NAME=VALUE"),
        ("finetune --bits 4", "--bits is a setting of tuneqdm, not of lora"),
        ("finetune --device fp32 --verify", "--verify does nothing with --device fp32"),
        ("finetune --device fp32 --config tiny", "--config does nothing with --device fp32"),
        ("finetune --data x --images 4", "--images does nothing with --data"),
        ("finetune --method zoodip --alpha-pattern a=2", "--alpha-pattern does nothing with --method zoodip, which trains no adapter"),
        ("bench methods --device fp32 --config tiny", "--config does nothing with --device fp32"),
        ("bench methods --seeds 0", "seeds must be at least 1, not 0"),
        ("bench shapes --dataflow fixed-os --modelled", "--modelled does nothing with --dataflow fixed-os"),
        ("bench sd15 --first 0", "first must be at least 1, not 0"),
        ("bench simulator --repeat 0", "repeat must be at least 1, not 0"),
        ("capture --steps 0", "steps must be at least 1, not 0"),
        ("pretrain --steps 0", "steps must be at least 1, not 0"),
        ("soak --device reference --stall 0.5", "--stall does nothing but with --device verilator"),
        ("soak --stall 1", "stall must be a probability of at least 0 and below 1, not 1"),
        ("soak --products 0", "products must be at least 1, not 0"),
        ("study --results --seeds 2", "--seeds does nothing with --results"),
        ("study --rerun fp32 --publish", "--publish does nothing with --rerun"),
        ("study --seed 3", "--seed does nothing without --rerun"),
        ("study --config tiny", "--config does nothing without --device"),
        ("study --finished --device direct", "--device does nothing with --finished"),
        ("synth --board kv260 --place-only", "--place-only does nothing with --board kv260"),
        ("synth --board zcu104 --seeds 2", "--seeds does nothing with --board zcu104"),
        ("synth --part smoke --config tiny", "--config does nothing with --part smoke"),
        ("synth --synth-only --frequency 50", "--frequency does nothing with --synth-only"),
        ("finetune --output /dev/null", "output /dev/null is a file"),
        ("finetune --data no/folder", "data no/folder is not a folder"),
        ("finetune --model no/folder", "model no/folder is not a folder"),
        ("finetune --start-from no/file", "start-from no/file is not there"),
        ("adapter . --output /dev/null", "output /dev/null is a file"),
        ("sim --digit 3", "digit must be 8 or 9"),
        ("sim --output /dev/null", "output /dev/null is a file"),
        ("pretrain --output /dev/null", "output /dev/null is a file"),
        ("study --output /dev/null", "output /dev/null is a file"),
        ("bench methods --output /dev/null", "output /dev/null is a file"),
        ("soak --seconds 3", "--seconds does nothing without --lists"),
        ("soak --lists --products 3", "--products does nothing with --lists"),
        ("soak --kills 0", "kills must be at least 1, not 0"),
        ("soak --kills 3 --products 3", "--products does nothing with --kills"),
        ("soak --vector 0", "vector must be at least 1, not 0"),
        ("soak --vector 3 --products 3", "--products does nothing with --vector"),
        ("soak --replay x --commands 3", "--commands does nothing with --replay"),
        ("mutate --count 5", "--count does nothing without --plans"),
        ("mutate --list --fresh", "--fresh does nothing with --list"),
        ("mutate --plans array --catalogue x", "--catalogue does nothing with --plans"),
        ("report energy --node 1nm", "node must be one of"),
        ("synth --frequency 0", "frequency must be in 1..1000 MHz, not 0"),
        ("synth --timeout 0", "timeout must be above 0"),
        ("report vector --lanes 3", "lanes must be an even number of at least 2, not 3"),
        ("report area --rows 0", "rows must be at least 1, not 0"),
        ("gen --check --config tiny", "--config does nothing with a check"),
        ("gen --check verilog", "--check compares committed texts and does nothing with `gen verilog`"),
        ("gen --config tiny baseline", "--config does nothing with `gen baseline`"),
        ("gen lanes --lanes 0", "lanes must be an even number of at least 2, not 0"),
        ("gen --config tiny lanes", "--config does nothing with `gen lanes`"),
        ("gen baseline --rows 0", "rows must be at least 1, not 0"),
    ],
)
def test_what_a_command_line_may_not_say_is_told_before_the_work(
    words: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = words.split()[0]

    def work(args: argparse.Namespace) -> int:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(f"{worker(command)}.run", work)
    assert cli.main(words.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_defaults_pass_the_checks(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    required = {"bench": ["methods"], "report": ["area"], "plan": ["sd15"], "adapter": ["x"], "disasm": ["x"], "emoji": ["fetch"]}
    monkeypatch.setattr(f"{worker(command)}.run", lambda args: 7)
    assert cli.main([command, *required.get(command, [])]) == 7


def test_a_sim_has_a_length_of_one_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["sim", "--steps", "3", "--seconds", "3"])
    assert stop.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_models_have_one_name_each() -> None:
    from loralith import energy
    from loralith.diffusion import published as configs
    from loralith.shapes import published_models

    assert set(energy.MODELS) <= set(configs.MODELS) == set(published_models.MODELS)


def test_both_versions_are_told_apart(capsys: pytest.CaptureFixture[str], repo: Path) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    said = capsys.readouterr().out
    assert said.startswith(f"loralith {loralith.__version__}, interface {'.'.join(map(str, VERSION))} ")
    assert f"name: ::loralith:{loralith.__version__}\n" in (repo / "loralith.core").read_text(encoding="utf-8")


AT_ONCE = (
    "finetune --config huge",
    "finetune --device gpu",
    "finetune --images 999",
    "finetune --method zoodip --mu -1",
    "plan sd15 --rank 0",
    "plan nowhere",
    "plan sd15 --targets to_z",
    "adapter x --model nowhere",
    "study --seed 3",
    "study --schemes int5",
    "report memory --targets to_z",
    "--help",
    "report --help",
)


@pytest.mark.parametrize("words", AT_ONCE)
def test_what_is_told_at_once_waits_for_no_library(words: str) -> None:
    """torch takes up to a minute to load."""
    code = "import contextlib, sys; from loralith.cli import main\nwith contextlib.suppress(SystemExit): assert main(sys.argv[1:]) == 2\n"
    code += "assert not {'torch', 'amaranth', 'diffusers', 'sklearn', 'numpy', 'matplotlib', 'rich'} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code, *words.split()], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


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


NEEDS = {
    "sim": [["gen", "verilog"], ["gen", "baseline"], ["bench", "simulator"]],
    "torch": [
        ["plan", "small"],
        ["adapter", "x"],
        ["finetune"],
        ["pretrain"],
        ["emoji", "train"],
        ["sim"],
        ["study"],
        ["capture"],
        ["report", "memory"],
    ],
}


def test_a_command_without_its_extra_says_which(tmp_path: Path) -> None:
    """As after a plain `pip install .`: nothing but numpy and safetensors can be imported."""
    missing = ("torch", "diffusers", "peft", "transformers", "PIL", "sklearn", "matplotlib", "rich", "amaranth", "cocotb", "threadpoolctl")
    code = f"import sys\nfor name in {missing}: sys.modules[name] = None\nfrom loralith.cli import main\n"
    commands = [words for extra in NEEDS.values() for words in extra]
    code += f"for words in {commands}: print(main(words), *words, file=sys.stderr)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning")]
    expected = []
    for extra, own in NEEDS.items():
        for words in own:
            expected += [f"`pip install 'loralith[{extra}]'` installs it", f"2 {' '.join(words)}"]
    assert len(lines) == len(expected), done.stderr
    for line, end in zip(lines, expected, strict=True):
        assert line.endswith(end)
    assert not list(tmp_path.iterdir())


def test_report_shapes_names_a_file_that_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, message in (
        ("{}", "x.json is no result of `loralith bench shapes`: it has no rows"),
        ("[1]", "it has no rows"),
        ("{", "x.json cannot be read: it is not JSON"),
    ):
        (tmp_path / "x.json").write_text(content)
        assert cli.main(["report", "shapes", "--folder", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


def test_mutate_works_in_a_clone_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("loralith.reports.result_files.REPO", tmp_path)
    assert cli.main(["mutate"]) == 2
    assert f"a clone of the repository, and {tmp_path} is none" in capsys.readouterr().err
    monkeypatch.undo()
    (tmp_path / "m.toml").write_text("[x]")
    assert cli.main(["mutate", "--catalogue", str(tmp_path / "m.toml")]) == 2
    assert "m.toml is no list of mutants: it has no [[mutant]]" in capsys.readouterr().err


def test_a_full_stdout_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-m", "loralith", "doctor", "--json"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")
