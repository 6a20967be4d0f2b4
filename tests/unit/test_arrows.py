"""Which part of loralith may import which.

    files <- spec <- rtl <- gen      spec <- verif      spec <- sw      the command line sees all

The packages of sw stand in layers (`LAYERS`), and so do the folders of `compiler` (`COMPILER_LAYERS`): none imports one of its own layer or
of a higher one.

A part that runs on a board (devices, compiler, adapters) imports neither amaranth nor torch. Imports under `if TYPE_CHECKING:` count
too: a type is a dependency as well.

No module imports itself by way of others. Here imports inside functions count, as a late import hides a circle and does not open it.
Imports under `if TYPE_CHECKING:` do not: they never run, and two classes that hold each other name each other's types.
"""

import ast
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.package_rules import BOARD, BOARD_ALSO, BOARD_PARTS, COMPILER_LAYERS, LAYERS, RULES, SW, Rule


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def rule_for(module: str, folder: str) -> Rule | None:
    fitting = [rule for rule in RULES if rule.folder == folder and within(module, rule.prefix)]
    return max(fitting, key=lambda rule: len(rule.prefix), default=None)


def nodes(tree: ast.AST, type_checking: bool) -> Iterator[ast.AST]:
    """All nodes of a syntax tree; without `type_checking` not those that only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        yield child
        test = child.test if isinstance(child, ast.If) else None
        if not type_checking and isinstance(child, ast.If) and getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING":
            yield from child.orelse
            for one in child.orelse:
                yield from nodes(one, type_checking)
        else:
            yield from nodes(child, type_checking)


def imports(source: str, module: str, is_package: bool, *, type_checking: bool = True) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that `source` imports, relative and literal `import_module` imports resolved.

    `from a import b` gives `a.b`: whether b is a module or a name in a, the arrow to a's subtree is the same, and for
    `from loralith import spec` it is the only thing that tells.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in nodes(ast.parse(source), type_checking):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, name if alias.name == "*" else f"{name}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def violations(source: str, module: str, folder: str, sw_packages: tuple[str, ...], is_package: bool = False) -> list[str]:
    """What `source`, the text of `module` in `folder`, imports against the rules, as `module:line: ...`."""
    rule = rule_for(module, folder)
    if rule is None:
        return [f"{module}: {folder}/ holds no such part"]
    allowed = tuple(name for entry in rule.loralith for name in (sw_packages if entry == SW else (entry,)))
    found = []
    for line, name in imports(source, module, is_package):
        top = name.split(".")[0]
        if top == "loralith":
            board = rule.prefix in BOARD_PARTS
            fine = any(within(name, entry) for entry in ((*BOARD_PARTS, *BOARD_ALSO) if board else allowed))
        elif top in sys.stdlib_module_names:
            fine = True
        else:
            fine = top not in rule.never and (rule.third_party is None or top in rule.third_party)
        if not fine:
            found.append(f"{module}:{line}: {rule.prefix} must not import {name}")
    return found


def sw_packages_of(repo: Path) -> tuple[str, ...]:
    children = (repo / "sw" / "loralith").iterdir()
    names = {child.stem for child in children if child.suffix == ".py" or (child.is_dir() and any(child.glob("*.py")))}
    # The package's own lazy attributes, and not its command line, which nothing imports.
    return (*(f"loralith.{name}" for name in sorted(names - {"cli", "__init__"})), "loralith.open_device", "loralith.attach")


def modules_of(repo: Path) -> Iterator[tuple[Path, str, str, bool]]:
    for folder in ("gen", "hw", "verif", "sw"):
        for path in sorted((repo / folder / "loralith").rglob("*.py")):
            parts = path.relative_to(repo / folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            yield path, ".".join(parts[:-1] if is_package else parts), folder, is_package


def import_graph(sources: dict[str, tuple[str, bool]]) -> dict[str, list[str]]:
    """For each module those that it imports when it runs; `sources` has each module's text, and whether it is a package's."""
    graph: dict[str, list[str]] = {}
    for module, (source, is_package) in sources.items():
        found = dict.fromkeys(
            name if name in sources else name.rpartition(".")[0] for _, name in imports(source, module, is_package, type_checking=False)
        )
        graph[module] = [name for name in found if name in sources and name != module]
    return graph


def shortest_circle(graph: dict[str, list[str]], start: str) -> list[str]:
    """The shortest way of imports from `start` back to it, both ends named; empty where there is none."""
    ways = deque([[start]])
    seen: set[str] = set()
    while ways:
        way = ways.popleft()
        for name in graph[way[-1]]:
            if name == start:
                return [*way, start]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []


def circles(graph: dict[str, list[str]]) -> list[str]:
    """Every module's shortest circle as `a -> b -> a`, each circle once, from its alphabetically first module."""
    found = {}
    for module in sorted(graph):
        way = shortest_circle(graph, module)
        if way:
            found.setdefault(frozenset(way), " -> ".join(way))
    return sorted(found.values())


def test_no_module_imports_itself_by_way_of_others(repo: Path) -> None:
    sources = {module: (path.read_text(encoding="utf-8"), is_package) for path, module, _, is_package in modules_of(repo)}
    graph = import_graph(sources)
    assert sum(map(len, graph.values())) > len(graph), "the graph has imports"
    found = circles(graph)
    assert not found, "import circles:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("b", "named"),
    [
        ("from loralith.c import thing", ["loralith.a -> loralith.b -> loralith.c -> loralith.a"]),
        ("def late():\n    import loralith.a", ["loralith.a -> loralith.b -> loralith.a"]),
        ("from .a import thing", ["loralith.a -> loralith.b -> loralith.a"]),
        ("from loralith import a", ["loralith.a -> loralith.b -> loralith.a"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from loralith.a import thing", []),
        (
            "import typing\nif typing.TYPE_CHECKING:\n    import loralith.a\nelse:\n    import loralith.c",
            ["loralith.a -> loralith.b -> loralith.c -> loralith.a"],
        ),
        ("import os", []),
    ],
)
def test_a_circle_is_named(b: str, named: list[str]) -> None:
    sources = {"loralith.a": "import loralith.b", "loralith.b": b, "loralith.c": "import loralith.a"}
    assert circles(import_graph({name: (source, False) for name, source in sources.items()})) == named


def test_no_import_goes_against_the_arrows(repo: Path) -> None:
    sw_packages = sw_packages_of(repo)
    found = [
        violation
        for path, module, folder, is_package in modules_of(repo)
        for violation in violations(path.read_text(encoding="utf-8"), module, folder, sw_packages, is_package)
    ]
    assert not found, "\n" + "\n".join(found)


def test_only_sw_holds_the_package_itself(repo: Path) -> None:
    """A second loralith/__init__.py would hide the folders behind it on sys.path."""
    assert [folder for folder in ("gen", "hw", "verif", "sw") if (repo / folder / "loralith" / "__init__.py").exists()] == ["sw"]


def upward(source: str, module: str, is_package: bool, layers: tuple[tuple[str, ...], ...], above: str) -> list[str]:
    """What `source`, the text of `module` below the package `above`, imports from its own layer or a higher one, as `module:line: ...`."""
    height = {f"{above}.{name}": at for at, names in enumerate(layers) for name in names}
    depth = above.count(".") + 2

    def part(name: str) -> str:
        return ".".join(name.split(".")[:depth])

    own = part(module)
    return [
        f"{module}:{line}: {own} must not import {name}, of its own layer or a higher one"
        for line, name in imports(source, module, is_package)
        if own in height and part(name) != own and height.get(part(name), -1) >= height[own]
    ]


@pytest.mark.parametrize(("above", "layers"), [("loralith", LAYERS), ("loralith.compiler", COMPILER_LAYERS)])
def test_no_package_of_sw_imports_a_higher_one(repo: Path, above: str, layers: tuple[tuple[str, ...], ...]) -> None:
    sources = [
        (path.read_text(encoding="utf-8"), module, is_package) for path, module, folder, is_package in modules_of(repo) if folder == "sw"
    ]
    parts = {module.removeprefix(above + ".").split(".")[0] for _, module, _ in sources if module.startswith(above + ".")}
    assert parts - {"__main__"} == {name for names in layers for name in names}, "each has its layer"
    found = [one for source, module, is_package in sources for one in upward(source, module, is_package, layers, above)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("loralith.diffusion.unet", "from loralith.methods.training_method import Method", 1),
        ("loralith.diffusion.unet", "if TYPE_CHECKING:\n    from loralith.training.session import Session", 1),
        ("loralith.mapping.attachment", "def late():\n    from loralith.methods import make_method", 1),
        ("loralith.mapping.attachment", "from ..methods import make_method", 1),
        ("loralith.device.reference", "from loralith.diffusion import unet", 1),
        ("loralith.training.loop", "from loralith.reports.run_html import build_html\nfrom loralith.training.session import Session", 0),
        ("loralith.methods.lora", "from loralith.spec.config import Config\nimport loralith.errors", 0),
    ],
)
def test_an_upward_import_is_found(module: str, source: str, count: int) -> None:
    assert len(upward(source, module, False, LAYERS, "loralith")) == count


SW_PACKAGES = tuple(f"loralith.{name}" for name in ("device", "compiler", "lora", "mapping", "diffusion", "errors", "placement", "synth"))


@pytest.mark.parametrize(
    ("module", "folder", "source"),
    [
        ("loralith.spec.config", "gen", "import numpy"),
        ("loralith.spec.config", "gen", "from loralith.rtl import top"),
        ("loralith.spec.config", "gen", "from loralith import errors"),
        ("loralith.files", "gen", "from loralith.spec import config"),
        ("loralith.spec.config", "gen", "from ..rtl import top"),
        ("loralith.spec.config", "gen", "def late():\n    import torch"),
        ("loralith.rtl.pe.array", "hw", "import torch"),
        ("loralith.rtl.pe.array", "hw", "from loralith.gen import cli"),
        ("loralith.rtl.pe.array", "hw", "from ...verif import model"),
        ("loralith.rtl.pe.array", "hw", "import loralith.errors"),
        ("loralith.gen.cli", "gen", "from loralith.verif import vectors"),
        ("loralith.gen.cli", "gen", "from loralith.cli import output"),
        ("loralith.verif.model", "verif", "from loralith.rtl import top"),
        ("loralith.verif.model", "verif", "from loralith.compiler import layer"),
        ("loralith.verif.model", "verif", "import loralith"),
        ("loralith.diffusion.unet", "sw", "from loralith.rtl import top"),
        ("loralith.diffusion.unet", "sw", "from loralith.verif import model"),
        ("loralith.diffusion.unet", "sw", "from loralith.gen import cli"),
        ("loralith.diffusion.unet", "sw", "from loralith.cli import output"),
        ("loralith.diffusion.unet", "sw", "import amaranth.sim"),
        ("loralith.device.reference", "sw", "import torch.nn"),
        ("loralith.device.reference", "sw", "from importlib import import_module\nimport_module('torch')"),
        ("loralith.device.reference", "sw", "from loralith.diffusion import unet"),
        ("loralith.compiler.layer", "sw", "from amaranth.lib import data"),
        ("loralith.compiler.layer", "sw", "if TYPE_CHECKING:\n    import torch"),
        ("loralith.lora.adapters", "sw", "import torch"),
        ("loralith.lora.adapters", "sw", "from loralith.mapping import attach"),
        ("loralith.lora.quantize", "sw", "import torch"),
        ("loralith.lora.layer_step", "sw", "from loralith.mapping.attach_model import attach"),
        ("loralith.lora.layer", "sw", "from ..mapping import attach"),
        ("loralith.placement.relocate", "sw", "from loralith.synth.board import Board"),
        ("loralith.placement.relocate", "sw", "from ..synth import placer"),
        ("loralith.placement.macros", "sw", "from loralith.spec.config import Config"),
        ("loralith.elsewhere", "gen", "import os"),
    ],
)
def test_a_forbidden_import_is_found(module: str, folder: str, source: str) -> None:
    assert len(violations(source, module, folder, SW_PACKAGES)) == 1


@pytest.mark.parametrize(
    ("module", "folder", "source"),
    [
        ("loralith.spec.config", "gen", "import json\nfrom .version import VERSION\nfrom . import version"),
        ("loralith.rtl.pe.array", "hw", "from amaranth.lib import wiring\nfrom loralith.spec.config import Config\nfrom ..axi import bus"),
        ("loralith.gen.cli", "gen", "from loralith import spec\nfrom loralith.rtl.top import Top\nfrom amaranth.back import verilog"),
        ("loralith.verif.model", "verif", "import torch\nfrom loralith.spec import numerics"),
        ("loralith.diffusion.unet", "sw", "import torch\nfrom loralith.errors import LoralithError\nfrom loralith.spec import numerics"),
        ("loralith.device.reference", "sw", "import numpy\nfrom loralith.compiler.layer import compile_layer\nfrom loralith import errors"),
        ("loralith.lora.adapters", "sw", "import safetensors.numpy\nfrom loralith.errors import LoralithError"),
        (
            "loralith.lora.layer",
            "sw",
            "import numpy\nfrom .quantize import quantize\nfrom loralith.compiler.schedules.passes import forward",
        ),
        ("loralith.placement.macros", "sw", "import numpy\nfrom scipy.optimize import milp\nfrom .error import PlacementError"),
        ("loralith.synth.placer", "sw", "from loralith.placement import relocate"),
        ("loralith.cli.sim", "sw", "import torch\nfrom loralith.rtl import top\nfrom loralith.verif import model"),
    ],
)
def test_what_the_arrows_allow_is_not_reported(module: str, folder: str, source: str) -> None:
    assert violations(source, module, folder, SW_PACKAGES) == []


def test_board_parts_import_without_torch_and_amaranth(repo: Path) -> None:
    """The packages above a module run too when it is imported, whatever its own imports are."""
    names = [module for _, module, _, _ in modules_of(repo) if any(within(module, part) for part in BOARD_PARTS)]
    code = "import sys\nfor name in sys.argv[1].split(','): sys.modules[name] = None\nfor name in sys.argv[2:]: __import__(name)\n"
    done = subprocess.run([sys.executable, "-c", code, ",".join(BOARD["never"]), *names], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
