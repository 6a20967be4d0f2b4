"""What `loralith gen` writes: committed texts up to date, and each of them saying what `loralith.spec` says."""

import dataclasses
import json
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from loralith import cli as loralith_cli
from loralith.gen import cli, facts
from loralith.gen.markdown import table
from loralith.spec.commands import COMMANDS, Command, Opcode
from loralith.spec.config import PRESETS, Config, ConfigError, load_config
from loralith.spec.numerics import HASH_VECTORS
from loralith.spec.registers import REGISTERS, Access
from loralith.spec.status import Code

HEADER = "sw/include/loralith.h"
REGISTERS_PAGE = "docs/generated/registers.md"
COMMANDS_PAGE = "docs/generated/commands.md"
LINK_PAGE = "docs/generated/link.md"
CONFIGURATION_PAGE = "docs/generated/configuration.md"
SVD = "docs/generated/loralith.svd"
JSON = "docs/generated/loralith.json"


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return cli.texts()


# The committed files, and how a difference is told.


def test_committed_texts_are_up_to_date() -> None:
    assert cli.check() == {}


@pytest.fixture
def checkout(tmp_path: Path, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the generated texts as they should be."""
    monkeypatch.setattr(cli, "root", lambda: tmp_path)
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(text.encode())
    return tmp_path


def test_check_passes_where_nothing_changed(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert loralith_cli.main(["gen", "--check", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"ok": True, "stale": []}
    assert captured.err == ""


@pytest.mark.parametrize("path", [HEADER, CONFIGURATION_PAGE, REGISTERS_PAGE, COMMANDS_PAGE, LINK_PAGE, SVD, JSON])
@pytest.mark.parametrize("change", ["edited", "missing", "line endings"])
def test_check_names_a_changed_file(path: str, change: str, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = checkout / path
    if change == "missing":
        file.unlink()
    else:
        before = file.read_bytes()
        file.write_bytes(before.replace(b"1", b"2", 1) if change == "edited" else before.replace(b"\n", b"\r\n"))
    assert loralith_cli.main(["gen", "check", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"ok": False, "stale": [path]}
    assert captured.err == f"{path} is not what its sources say; `loralith gen` writes it\n"


def test_check_names_a_file_that_no_emitter_writes(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "docs/generated/old.md").write_text("left over")
    assert loralith_cli.main(["gen", "--check"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "docs/generated/old.md is written by no emitter; remove it\n"
    assert captured.out == ""


def test_gen_writes_texts_and_verilog_and_prints_one_object(
    tmp_path: Path, texts: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from loralith.gen import verilog

    monkeypatch.setattr(cli, "root", lambda: tmp_path)
    monkeypatch.setattr(verilog, "convert", lambda config: f"module loralith; // {config.name}\n")
    assert loralith_cli.main(["gen", "--config", "tiny", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["written"] == list(texts)
    assert all((tmp_path / path).read_bytes() == text.encode() for path, text in texts.items())
    assert Path(report["verilog"]["path"]).read_text() == "module loralith; // tiny\n"
    assert report["verilog"]["config_hash"] == f"0x{PRESETS['tiny'].hash:08X}"


def test_a_bad_configuration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "root", lambda: tmp_path)
    assert loralith_cli.main(["gen", "--config", "huge"]) == 2
    assert "error: config must be one of tiny" in capsys.readouterr().err


def test_scratchpads_take_bytes_in_a_loop_over_their_lanes() -> None:
    """A statement for each byte means the same, but costs a simulator a third of its time, and no other test would tell."""
    from loralith.gen import verilog

    text = verilog.convert(PRESETS["tiny"])
    assert text.count("begin : lanes") >= 2 * PRESETS["tiny"].banks
    assert not re.search(r"if \(enable\d+ ?\[\d+\]\)", text), "a statement for one byte"


def test_columns_are_one_module() -> None:
    """All but the last, whose neighbour is no column: a simulator has one code for all of them."""
    from loralith.gen import verilog

    text = verilog.convert(PRESETS["ecp5"])
    name = r"\\loralith\.compute\.array\.columns(\d*)"
    assert sorted(re.findall(rf"^module {name} ", text, flags=re.MULTILINE)) == ["", "14"]
    instances = re.findall(rf"^  {name}  (columns\d+) \(", text, flags=re.MULTILINE)
    assert sorted(instances) == sorted(("14" if j == 14 else "", f"columns{j}") for j in range(0, 16, 2))


def test_modules_that_differ_are_not_taken_for_one() -> None:
    from loralith.gen import verilog

    one = "module \\top.a1 (i, o);\n  input i;\n  wire \\$procmux$7_Y ;\n  assign o = i;\nendmodule\n"
    same = one.replace("a1", "a2").replace("$7", "$9")
    other = one.replace("a1", "a3").replace("= i", "= ~i")
    top = "module top (i, o);\n" + "".join(f"  \\top.a{k}  a{k} (\n    .i(i)\n  );\n" for k in (1, 2, 3)) + "endmodule\n"
    text = verilog.modules_once(one + same + other + top)
    assert re.findall(r"^module (\S+)", text, flags=re.MULTILINE) == ["\\top.a", "\\top.a3", "top"]
    assert re.findall(r"^  (\S+)  (a\d) \(", text, flags=re.MULTILINE) == [("\\top.a", "a1"), ("\\top.a", "a2"), ("\\top.a3", "a3")]


def test_two_kinds_of_modules_under_one_stem_keep_their_names() -> None:
    from loralith.gen import verilog

    one = "module \\top.a1 (i, o);\n  input i;\n  assign o = i;\nendmodule\n"
    other = one.replace("a1", "a3").replace("= i", "= ~i")
    top = "module top (i, o);\n" + "".join(f"  \\top.a{k}  a{k} (\n    .i(i)\n  );\n" for k in (1, 2, 3, 4)) + "endmodule\n"
    text = one + one.replace("a1", "a2") + other + other.replace("a3", "a4") + top
    assert verilog.modules_once(text) == text


def test_every_signal_has_a_name() -> None:
    """One of two that are made in one assignment would be called $signal: in waveforms, and in the paths that a synthesis reports."""
    from loralith.gen import verilog

    assert not re.findall(r"\\\$signal\S*", verilog.convert(PRESETS["tiny"]))


def test_texts_are_the_same_bytes_in_another_process(texts: dict[str, str]) -> None:
    code = "import json; from loralith.gen import cli; print(json.dumps(cli.texts()))"
    environment = {"PYTHONHASHSEED": "7", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert json.loads(done.stdout) == texts


# The configuration: its page, and the files that it describes.


def test_configuration_page_has_every_field_and_preset(texts: dict[str, str]) -> None:
    page = texts[CONFIGURATION_PAGE]
    fields_table, presets_table = page.split("## Presets")
    rows = {row[0].strip("`"): row[1:] for row in rows_of(fields_table)}
    for field in dataclasses.fields(Config):
        default, meaning = rows[field.name]
        assert default == ("" if field.default is dataclasses.MISSING else str(field.default))
        assert len(meaning) > 10, field.name
    presets = {row[0].strip("`"): row[1:] for row in rows_of(presets_table)}
    assert presets["rows"] == [str(config.rows) for config in PRESETS.values()]


def test_the_page_s_example_is_a_configuration(texts: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "narrow.json").write_text(re.findall(r"```json\n(.*?)```", texts[CONFIGURATION_PAGE], re.DOTALL)[0])
    config = load_config(tmp_path / "narrow.json")
    assert config == dataclasses.replace(PRESETS["base"], name="narrow", bus_bytes=8, max_fold=8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rows": 4, "cols": 4}, 'no bus_bytes, max_fold, left_bytes, right_bytes, out_bytes, acc_bytes; give them, or .* "base": "tiny"'),
        ({"base": "huge"}, "base must be one of tiny, tiny-vector, ecp5, base, base-vector, large, paper, not 'huge'"),
        ({"base": 3}, "base must be one of .*, not 3"),
        ({"base": "tiny", "row": 4}, "unknown field row; known are base, acc_bytes"),
        ({"base": "tiny", "rows": 12}, "rows must be a power of two in 2..64, not 12"),
        ({"base": "tiny", "name": "../x"}, "name must be a name without '/', not '../x'"),
        ({"base": "tiny", "name": 3}, "name must be a name without '/', not 3"),
    ],
)
def test_a_configuration_file_that_cannot_be_built_is_refused(content: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "own.json")


# The C header, through a program that uses it.


def examples() -> list[Command]:
    """Of each command: every field at its largest value, each one alone, and random ones."""
    rng = random.Random(3)
    found = []
    for opcode, record in COMMANDS.items():
        fields = {name: f.width for name, f in record.fields.items() if name != "opcode"}
        found.append(Command.make(opcode, **{name: (1 << width) - 1 for name, width in fields.items()}))
        found += [Command.make(opcode, **{name: (1 << width) - 1}) for name, width in fields.items()]
        found += [Command.make(opcode, **{name: rng.getrandbits(width) for name, width in fields.items()}) for _ in range(3)]
    return found


def c_program() -> str:
    lines = ["#include <stdio.h>", '#include "loralith.h"', "int main(void) {", "uint8_t d[LORALITH_COMMAND_BYTES]; uint32_t key[2];"]
    for command in examples():
        name = command.opcode.name.lower()
        values = ", ".join(f".{field} = UINT64_C({value})" for field, value in command.fields)
        lines.append(f'{{ struct loralith_{name} c = {{{values}}}; printf("%d ", loralith_pack_{name}(&c, d)); }}')
        lines.append('for (int i = 0; i < LORALITH_COMMAND_BYTES; i++)\n    printf("%02x", d[i]);')
        lines.append('printf("\\n");')
    for seed, step, tensor, index, _ in HASH_VECTORS:
        lines.append(f"loralith_hash_key(UINT64_C({seed}), UINT32_C({step}), UINT32_C({tensor}), key);")
        lines.append(f'printf("%u\\n", (unsigned)loralith_hash32(key, UINT32_C({index})));')
    return "\n".join([*lines, "return 0; }\n"])


def compile_c(folder: Path, source: str, *flags: str, header: str) -> Path:
    (folder / "loralith.h").write_text(header)
    (folder / "program.c").write_text(source)
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", *flags, "-I.", "program.c", "-o", "program"]
    done = subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "program"


@pytest.fixture(scope="module")
def c_output(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str]) -> list[str]:
    program = compile_c(tmp_path_factory.mktemp("c"), c_program(), header=texts[HEADER])
    return subprocess.run([program], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def test_c_packs_commands_to_the_same_bytes(c_output: list[str]) -> None:
    for command, line in zip(examples(), c_output[: -len(HASH_VECTORS)], strict=True):
        assert line == f"0 {command.pack().hex()}", command


def test_c_hash_gives_the_vectors(c_output: list[str]) -> None:
    assert [int(line) for line in c_output[-len(HASH_VECTORS) :]] == [vector[-1] for vector in HASH_VECTORS]


def test_c_refuses_what_a_field_cannot_hold(tmp_path: Path, texts: dict[str, str]) -> None:
    source = """#include "loralith.h"
    int main(void) {
        struct loralith_compute c = {.k0 = 131072};
        uint8_t d[LORALITH_COMMAND_BYTES] = {7};
        return !(loralith_pack_compute(&c, d) == -1 && d[0] == 7);
    }"""
    assert subprocess.run([compile_c(tmp_path, source, header=texts[HEADER])]).returncode == 0


def test_header_is_cpp_too(tmp_path: Path, texts: dict[str, str]) -> None:
    (tmp_path / "loralith.h").write_text(texts[HEADER])
    (tmp_path / "program.cpp").write_text('#include "loralith.h"\nint main() { return 0; }\n')
    command = ["g++", "-std=c++11", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only", "program.cpp"]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def defines(header: str) -> dict[str, int]:
    """The header's macros that stand for a number."""
    found = re.findall(r"^#define LORALITH_(\w+) (?:UINT(?:32|64)_C\()?(0x[0-9A-F]+|\d+)u?\)?(?:  /\*|$)", header, re.MULTILINE)
    names = [name for name, _ in found]
    assert len(names) == len(set(names))
    return {name: int(value, 0) for name, value in found}


def test_macros_of_fields_pack_a_command(texts: dict[str, str]) -> None:
    macros = defines(texts[HEADER])
    rng = random.Random(4)
    for opcode, record in COMMANDS.items():
        values = {name: rng.getrandbits(f.width) for name, f in record.fields.items() if name != "opcode"}
        descriptor = 0
        for field, value in {"opcode": int(opcode), **values}.items():
            name = f"{record.name}_{field.upper()}"
            assert macros[f"{name}_MASK"] == (1 << record.fields[field].width) - 1
            descriptor |= value << macros[f"{name}_LSB"] << 8 * macros[f"{name}_OFFSET"]
        assert descriptor.to_bytes(record.size, "little") == Command.make(opcode, **values).pack()


def test_header_has_every_register_and_bit(texts: dict[str, str]) -> None:
    macros = defines(texts[HEADER])
    for r in REGISTERS.values():
        if r.width == 64:
            assert (macros[f"REG_{r.name}_LOW"], macros[f"REG_{r.name}_HIGH"]) == (r.offset, r.offset + 4)
        else:
            assert macros[f"REG_{r.name}"] == r.offset
        for b in r.bits:
            assert macros[f"{r.name}_{b.name.upper()}_MASK"] == ((1 << b.width) - 1) << b.lsb
            assert macros[f"{r.name}_{b.name.upper()}_LSB"] == b.lsb
    for name, value, _ in facts.LIMITS:
        assert macros[name] == value
    for name, config in PRESETS.items():
        assert macros[f"CONFIG_HASH_{name.upper().replace('-', '_')}"] == config.hash
    for code in Code:
        assert f"LORALITH_CODE_{code.name} = {int(code)}," in texts[HEADER]


# The pages, SVD and JSON.


def rows_of(page: str) -> list[list[str]]:
    """The cells of all table rows."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.replace("\\", "").strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_command_page_has_every_field(texts: dict[str, str]) -> None:
    sections = re.split(r"^## ", texts[COMMANDS_PAGE], flags=re.MULTILINE)[1:]
    assert [section.split()[0] for section in sections] == [opcode.name for opcode in Opcode]
    for record, section in zip(COMMANDS.values(), sections, strict=True):
        rows = {row[3]: row for row in rows_of(section) if len(row) == 5}
        for f in record.fields.values():
            bits = str(f.lsb) if f.width == 1 else f"{f.lsb + f.width - 1}..{f.lsb}"
            assert rows[f.name] == [f"`0x{4 * f.word:02X}`", str(f.word), bits, f.name, f.doc]


def test_every_field_and_register_is_explained() -> None:
    assert [(r.name, f.name) for r in COMMANDS.values() for f in r.fields.values() if not f.doc] == []
    assert [r.name for r in REGISTERS.values() if not r.doc or not all(b.doc for b in r.bits)] == []


def test_register_page_has_every_register_bit_and_code(texts: dict[str, str]) -> None:
    rows = rows_of(texts[REGISTERS_PAGE])
    for r in REGISTERS.values():
        assert [r.name, str(r.width), r.access.value] in [row[1:4] for row in rows if row[0] == f"`0x{r.offset:03X}`"]
        for b in r.bits:
            assert [str(b.lsb) if b.width == 1 else f"{b.lsb + b.width - 1}..{b.lsb}", b.name, b.doc] in rows
    for enum in facts.STATUS_ENUMS.values():
        for choice in facts.choices(enum):
            assert [str(choice.value), choice.name, choice.doc] in rows


def test_table_escapes_what_markdown_would_take_for_its_own() -> None:
    assert table(["a"], [["|p| * 2**32"]]).splitlines()[-1] == r"| \|p\| \* 2\*\*32 |"


def test_svd_has_every_register(texts: dict[str, str]) -> None:
    device = ET.fromstring(texts[SVD].encode())
    registers = {element.findtext("name"): element for element in device.iter("register")}
    expected = {word.name: word for word in facts.words()}
    assert set(registers) == set(expected)
    for name, word in expected.items():
        element = registers[name]
        assert int(element.findtext("addressOffset", ""), 0) == word.offset
        assert element.findtext("modifiedWriteValues") == ("oneToClear" if word.access is Access.W1C else None)
        found = [(f.findtext("name"), int(f.findtext("bitOffset", "")), int(f.findtext("bitWidth", ""))) for f in element.iter("field")]
        assert found == [(b.name, b.lsb, b.width) for b in word.register.bits]
    size = int(device.findtext(".//addressBlock/size", ""), 0)
    assert all(word.offset + 4 <= size for word in expected.values())
    codes = {
        value.findtext("name"): value.findtext("value") for value in registers["STATUS"].findall(".//field[name='code']//enumeratedValue")
    }
    assert codes == {code.name: str(int(code)) for code in Code}


def test_json_rebuilds_the_commands(texts: dict[str, str]) -> None:
    content = json.loads(texts[JSON])
    commands = {entry["opcode"]: entry for entry in content["commands"]}
    for command in examples():
        entry = commands[int(command.opcode)]
        places = {f["name"]: 32 * f["word"] + f["lsb"] for f in entry["fields"]}
        bits = sum(value << places[name] for name, value in {"opcode": entry["opcode"], **dict(command.fields)}.items())
        assert bits.to_bytes(entry["bytes"], "little") == command.pack()
    assert {r["name"]: r["offset"] for r in content["registers"]} == {r.name: r.offset for r in REGISTERS.values()}
    assert {name: preset["hash"] for name, preset in content["presets"].items()} == {name: c.hash for name, c in PRESETS.items()}
    assert [tuple(vector.values()) for vector in content["hash_vectors"]] == list(HASH_VECTORS)
