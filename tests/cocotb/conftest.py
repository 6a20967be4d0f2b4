"""Simulations of the emitted Verilog under cocotb, and the programs that they run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.schedules.example import example
from loralith.compiler.schedules.matmul import compile_matmul, plan_matmul
from loralith.compiler.storage.layout import fold_right
from loralith.device.native.build import verilog
from loralith.device.reference import ReferenceDevice
from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import load_config
from loralith.toolchain import Verilator
from loralith.verif.bench.program import Program
from loralith.verif.bench.runner import build, simulate

BASE = 1 << 32
PAGE = 4096

Simulate = Callable[..., dict[str, float]]
Save = Callable[..., Path]


@pytest.fixture
def run_cases(verilator: Verilator, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """`run_cases(module, config="tiny", cases=(), **data)`: run a module of tests/cocotb/cases, or the named tests of it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "cases"))

    def run(module: str, config: str = "tiny", cases: tuple[str, ...] = (), **data: object) -> dict[str, float]:
        model = build(verilog(load_config(config)), repo / "build" / "cocotb")
        return simulate(model, module, tmp_path / module, cases=cases, data={"config": config, **data})

    return run


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """`save(program, name="")`: write a program to a file of its own, by whose name a failure calls it."""
    count = 0

    def write(program: Program, name: str = "program") -> Path:
        nonlocal count
        count += 1
        path = tmp_path / f"{name}_{count}.safetensors"
        program.save(path)
        return path

    return write


def program_of(device: ReferenceDevice, commands: CommandList, size: int) -> Program:
    """The program of a list whose operands are in the device's memory: the list lies at its beginning, the image has `size` bytes."""
    data = commands.pack()
    assert not device.read(BASE, len(data)).any(), "the list overwrites operands"
    device.write(BASE, data)
    before = device.read(BASE, size)
    result = device._execute(BASE, len(data) // COMMAND_BYTES, 1.0)
    exact = {name: getattr(result.counters, name) for name in ("bytes_read", "bytes_written", "macs", "saturations", "busy")}
    return Program(BASE, BASE, len(data) // COMMAND_BYTES, before, device.read(BASE, size), exact)


def example_program(config: str, seed: int = 1) -> Program:
    device = ReferenceDevice(load_config(config), 1 << 20, BASE)
    it = example(device.config, BASE + PAGE, seed)
    device.write(it.address, it.image)
    return program_of(device, it.commands, PAGE + -(-it.image.size // PAGE) * PAGE)


def product_program(config: str, M: int, N: int, K: int, seed: int = 1) -> Program:
    """An INT8 product of random operands, as `matmul` compiles it."""
    device = ReferenceDevice(load_config(config), 1 << 20, BASE)
    plan = plan_matmul(M, N, K, device.config)
    rng = np.random.default_rng(seed)
    left, right = rng.integers(-128, 128, (M, K), dtype=np.int8), rng.integers(-128, 128, (K, N), dtype=np.int8)
    operands = left, fold_right(right, plan.fold, device.config) if plan.fold > 1 else right
    addresses, end = [], BASE + 4 * PAGE
    for layout in plan.layouts(device.config):
        addresses.append(end)
        end += -(-layout.nbytes // 64) * 64
    for layout, address, values in zip(plan.layouts(device.config), addresses, operands, strict=False):
        device.write(address, layout.pack(values))
    commands = compile_matmul(plan, *addresses, device.config)
    assert len(commands) * COMMAND_BYTES <= 4 * PAGE
    program = program_of(device, commands, -(-(end - BASE) // PAGE) * PAGE)
    out = plan.layouts(device.config)[2]
    start = addresses[2] - BASE
    exact = left.astype(np.int32) @ right.astype(np.int32)
    np.testing.assert_array_equal(out.unpack(program.after[start : start + out.nbytes], np.int32), exact)
    return program


@pytest.fixture
def examples() -> Callable[..., Program]:
    return example_program


@pytest.fixture
def products() -> Callable[..., Program]:
    return product_program


@pytest.fixture
def to_program() -> Callable[..., Program]:
    return program_of
