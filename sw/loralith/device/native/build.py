"""Build the native model of a configuration, once per content.

Two caches, each keyed by everything that goes in: Verilog by configuration and hardware sources, the library by Verilog, C++ sources,
Verilator and flags. Entries are built in a folder of their own and renamed into place, so that processes may build at once, and one
that is killed leaves nothing half done.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path

from loralith.device.native.compile import BuildError, Levels, compile_design
from loralith.places import builds
from loralith.progress import every, tell
from loralith.spec.config import Config
from loralith.toolchain import ToolchainError, find_verilator, python_module, without_spaces

__all__ = [
    "LEVELS",
    "LIBRARY",
    "MODULE",
    "VERILATOR_FLAGS",
    "BuildError",
    "build",
    "cache_folder",
    "cached",
    "digest",
    "hardware_key",
    "processor",
    "runtime",
    "verilog",
]

MODULE = "loralith"
LIBRARY = "libloralith_model.so"
SOURCES = Path(__file__).resolve().parent

VERILATOR_FLAGS = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--threads", "1", "-Wno-fatal", "-Wno-lint")
# -O3 where the cycles go; the rest of Verilator's output runs once and would only build longer.
LEVELS = Levels()
# Runs with a waveform are short, and writing it takes longer than the cycles.
TRACE_LEVELS = Levels("-O1", "-O0", "-O1")
# Built where it runs: the elements' sums use whatever vector instructions this processor has.
CXX_FLAGS = "-fPIC -fno-semantic-interposition -march=native"
# The simulator's code of one cycle is several times the size of a processor's first instruction cache, and most of its time goes to
# fetching it. A profile lets the compiler put what a cycle seldom needs elsewhere.
GENERATE, USE = "-fprofile-generate={0} -fprofile-update=single", "-fprofile-use={0} -fprofile-correction -Werror=missing-profile"


def verilog(config: Config) -> Path:
    """The configuration's Verilog, `loralith.v`, with its description `loralith.json` beside it.

    Raises BuildError where the generator fails, with its message.
    """

    def make(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(config.as_dict()), encoding="utf-8")
        command = python_module("loralith.gen", "verilog", "--config", folder / "config.json", "--output", folder / f"{MODULE}.v")
        command += ["--description", str(folder / f"{MODULE}.json")]
        tell(f"writing the Verilog of configuration {config.name}, once: tens of seconds")
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise BuildError(f"no Verilog for configuration {config.name}:\n{done.stdout[-4000:]}")

    return cached(f"verilog-{hardware_key(config)}", make) / f"{MODULE}.v"


def build(config: Config, *, trace: bool = False, source: Path | None = None, profiled: bool = False) -> Path:
    """The shared library of `config`'s native model.

    Parameters:
        trace: a slower build that can write waveforms.
        source: a Verilog file to use in place of the emitted one.
        profiled: compiled twice, the second time by a profile of a short run; for long runs. As without it where the compiler takes no such
            profile.

    Raises BuildError where the generator, Verilator or the compiler fails, and ToolchainError where there is no Verilator.
    """
    verilator = find_verilator()
    source = source or verilog(config)
    native = sorted(
        (*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"), *SOURCES.glob("*.vlt"), *((SOURCES / "profile_run.py",) if profiled else ()))
    )
    flags = (*VERILATOR_FLAGS, *(("--trace-vcd",) if trace else ()))
    levels = TRACE_LEVELS if trace else LEVELS
    text = (str(verilator.version), *flags, str(levels), CXX_FLAGS, processor(), os.environ.get("CXX", ""))
    key = digest(source, *native, text=(*text, GENERATE, USE) if profiled else text)

    def compiled(folder: Path, objects: Path, options: str = "") -> None:
        sources, output, design = without_spaces(SOURCES), without_spaces(folder.parent) / folder.name, without_spaces(source)
        tell(f"compiling the native model of configuration {config.name}, once: from half a minute (tiny) to several (paper)")
        with every(10, lambda seconds: _so_far(objects, seconds)):
            verilator.run(
                *("--cc", *flags, "--top-module", MODULE, "-Mdir", objects, "--compiler-include", sources / "sign_extension.h"),
                *(sources / "modules.vlt", design),
            )
            own, to = f"{CXX_FLAGS} {options}", output / LIBRARY
            compile_design(verilator, objects, [sources / "model.cpp"], to, runtime=runtime(), flags=own, levels=levels, shared=True)
        # The object files' paths name the profile's: the second compilation takes place in the same folder.
        shutil.rmtree(objects)

    def make(folder: Path) -> None:
        with _objects(folder) as objects:
            if profiled and _exercised(config, folder, objects, compiled):
                return
            compiled(folder, objects)

    return cached(f"{'profiled' if profiled else 'trace' if trace else 'model'}-{key}", make) / LIBRARY


def _so_far(objects: Path, seconds: float) -> str:
    """How far Verilator and the compiler are."""
    units, done = len(list(objects.glob("unit_*.cc"))), len(list(objects.glob("unit_*_?.o")))
    if not units:
        return f"{seconds:.0f} s: Verilator reads the Verilog"
    return f"{seconds:.0f} s: {done} of {units} parts compiled"


@contextlib.contextmanager
def _objects(folder: Path) -> Iterator[Path]:
    """Where make works: in `folder`, or in a temporary folder where there are spaces in its path, which Verilator's makefiles refuse."""
    if without_spaces(folder.parent) == folder.parent.absolute():
        yield folder / "obj"
    else:
        with tempfile.TemporaryDirectory(prefix="loralith-") as other:
            yield Path(other) / "obj"


def _exercised(config: Config, folder: Path, objects: Path, compiled: Callable[[Path, Path, str], None]) -> bool:
    """Compile, run, and compile by what the run showed; whether that could be done."""
    profile, description = without_spaces(folder.parent) / folder.name / "profile", folder / "config.json"
    description.write_text(json.dumps(config.as_dict()), encoding="utf-8")
    try:
        compiled(folder, objects, GENERATE.format(profile))
        command = python_module("loralith.device.native.profile_run", folder / LIBRARY, description)
        subprocess.run(command, check=True, capture_output=True)
        compiled(folder, objects, USE.format(profile))
    except (ToolchainError, BuildError, subprocess.CalledProcessError):
        return False
    finally:
        shutil.rmtree(profile, ignore_errors=True)
        shutil.rmtree(objects, ignore_errors=True)
    return True


def cache_folder() -> Path:
    """Where models are kept, see `places.builds`."""
    return builds() / "verilator"


def runtime() -> Path:
    """Where the objects of Verilator's runtime are kept."""
    return cache_folder() / "runtime"


def hardware_key(config: Config | None, *more: str) -> str:
    """Key of what the Verilog is made from: the configuration, if there is one, and every source of the hardware, of the packages ``more``
    and of its description."""
    files = []
    for package in ("loralith.spec", "loralith.rtl", "loralith.gen", *more):
        spec = util.find_spec(package)
        if spec is None:
            raise BuildError(f"{package} is not installed: the simulator builds from the hardware's sources")
        for location in spec.submodule_search_locations or ():
            files += sorted(Path(location).rglob("*.py"))
    try:
        amaranth = metadata.version("amaranth")
    except metadata.PackageNotFoundError:
        raise BuildError("amaranth is not installed; `pip install 'loralith[sim]'` installs it") from None
    settings = () if config is None else (json.dumps(config.as_dict(), sort_keys=True),)
    return digest(*files, text=(amaranth, *settings))


def processor() -> str:
    """What -march=native depends on, so that a build folder that moves to another machine is not run there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def digest(*files: Path, text: tuple[str, ...] = ()) -> str:
    """A key of the files' names and contents and of ``text``."""
    content = hashlib.sha256("\0".join(text).encode())
    for file in files:
        content.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return content.hexdigest()[:20]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, filled by `make` if it is not there."""
    cache = cache_folder()
    target = cache / name
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{name}.lock"):
        if target.is_dir():
            return target
        folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cache))
        try:
            make(folder)
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file: a second process waits for the first one's build instead of repeating it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
