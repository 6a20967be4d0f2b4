"""docs/programmers-guide.md says what runs: its Python prints what it shows, and its C makes the same list."""

import contextlib
import io
import re
import subprocess
from pathlib import Path

import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.spec.config import PRESETS
from loralith.spec.registers import ID, REGISTERS, address_of
from loralith.spec.version import VERSION


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).resolve().parents[2] / "docs" / "programmers-guide.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def ran(page: str) -> tuple[dict, list[str]]:
    """The names that the Python examples define, and what each one prints."""
    names: dict = {}
    printed = []
    for source in blocks(page, "python"):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(source, names)
        printed.append(output.getvalue())
    return names, printed


def test_python_prints_what_the_page_shows(page: str, ran: tuple[dict, list[str]]) -> None:
    assert ran[1] == blocks(page, "text")


MAIN = """
#include <stdio.h>
int main(void)
{{
    uint8_t list[COMMANDS][LORALITH_COMMAND_BYTES];
    static volatile uint32_t registers[128];
    if (build_list(list, {left}u, {right}u, {out}u))
        return 1;
    for (int i = 0; i < COMMANDS; i++)
        for (int j = 0; j < LORALITH_COMMAND_BYTES; j++)
            printf("%02x", list[i][j]);
    if (open_machine(registers, 0, 0) != -1)
        return 2;
    registers[{id_} / 4] = {id_value}u;
    registers[{version} / 4] = {version_value}u;
    registers[{config_hash} / 4] = {hash_value}u;
    if (open_machine(registers, UINT64_C(0x100000000), UINT64_C(0x1C0000000)))
        return 3;
    registers[{status} / 4] = 5u << 8 | 4u;
    printf("\\n%u", (unsigned)run_list(registers, UINT64_C(0x180000040), COMMANDS));
    for (int i = 0; i < 128; i++)
        printf(" %u", (unsigned)registers[i]);
    return 0;
}}
"""


@pytest.mark.parametrize(("compiler", "standard", "suffix"), [("gcc", "c11", "c"), ("g++", "c++11", "cpp")])
def test_c_builds_the_same_list_and_writes_the_registers(
    compiler: str, standard: str, suffix: str, page: str, ran: tuple[dict, list[str]], repo: Path, tmp_path: Path
) -> None:
    names = ran[0]
    places = {
        "left": names["left_at"],
        "right": names["right_at"],
        "out": names["out_at"],
        "id_": address_of("ID"),
        "id_value": ID,
        "version": address_of("VERSION"),
        "version_value": VERSION[0] << 16 | VERSION[1] << 8 | VERSION[2],
        "config_hash": address_of("CONFIG_HASH"),
        "hash_value": PRESETS["base"].hash,
        "status": address_of("STATUS"),
    }
    (tmp_path / f"guide.{suffix}").write_text("".join(blocks(page, "c")) + MAIN.format(**places))
    command = [compiler, f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{repo / 'sw' / 'include'}"]
    command += [f"guide.{suffix}", "-o", "guide"]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    descriptors, after = subprocess.run([tmp_path / "guide"], stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")
    commands: CommandList = names["commands"]
    assert bytes.fromhex(descriptors) == commands.pack()
    code, *registers = (int(value) for value in after.split())
    assert code == 5
    written = {
        "IRQ_STATUS": 3,
        "LIST_BASE": 0x1_8000_0040,
        "LIST_LENGTH": 4,
        "CONTROL": 1,
        "WINDOW_BASE": 0x1_0000_0000,
        "WINDOW_LIMIT": 0x1_C000_0000,
    }
    for name, value in written.items():
        at = address_of(name) // 4
        found = registers[at] | (registers[at + 1] << 32 if REGISTERS[name].width == 64 else 0)
        assert found == value, name
