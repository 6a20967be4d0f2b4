"""Mutant schemata: one source that holds all mutants of its blocks, of which a signal selects one (`choice`).

Each mutant changes one expression. The rewritten source has, in place of the whole value that is assigned, or the whole condition, a call
that makes the original and each of its mutants. With no mutant selected the design is the original.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib.abc
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from .change import MutationError
from .generic import variants
from .sites import RTL, Site, block_names, locate, sites

__all__ = ["SchemaMutant", "install", "mutants_of", "rewritten", "ranked"]

HELPER = "_choose_mutant"


@dataclass(frozen=True)
class SchemaMutant:
    """A mutant of a schema.

    Attributes:
        block: the class. name: unique in all blocks, and the same as long as the block's text at that place is.
        path: the file. place: the whole expression that it changes, by (first line, column, last line, column). text: what stands there.
        sized: see `choice.choose`.
    """

    block: str
    name: str
    path: Path
    place: tuple[int, int, int, int]
    text: str
    sized: bool

    @property
    def module(self) -> str:
        """Its dotted name."""
        folder = RTL.parent
        return ".".join(("loralith", *self.path.relative_to(folder).with_suffix("").parts))


def mutants_of(block: str) -> list[SchemaMutant]:
    """All of a class, in the order of its text. Raises MutationError where no such block is."""
    defined = locate(block)
    if len(defined) != 1:
        raise MutationError(f"block must be one of {', '.join(block_names())}, not {block!r}")
    path, root = defined[0]
    found: dict[tuple[tuple[int, int, int, int], str], tuple[str, bool]] = {}
    taken: set[tuple[int, int, str]] = set()
    for site, whole in _wholes(root):
        for node, mutant in variants(site):
            text = ast.unparse(ast.fix_missing_locations(mutant))
            key = (node.lineno, node.col_offset, f"{ast.unparse(node)} {text}")
            if key in taken:  # of a smaller site
                continue
            taken.add(key)
            put = ast.unparse(ast.fix_missing_locations(_replaced(whole, node, mutant)))
            if put != ast.unparse(whole):
                at = f"{site.kind} {site.target}".strip()
                label = f"{block}, {at}: {ast.unparse(node)} -> {text}"
                found.setdefault((_place(whole), put), (label, not (site.drives or site.kind == "if")))
    numbers: Counter[str] = Counter()
    mutants = []
    for (place, put), (label, sized) in sorted(found.items(), key=lambda item: item[0]):
        numbers[label] += 1
        name = label if numbers[label] == 1 else f"{label} ({numbers[label]})"
        mutants.append(SchemaMutant(block, name, path, place, put, sized))
    return mutants


def ranked(mutants: Iterable[SchemaMutant], seed: int) -> list[SchemaMutant]:
    """In an order that `seed` gives; the same whatever other mutants there are."""
    return sorted(mutants, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.name}".encode()).hexdigest())


def rewritten(numbered: Mapping[int, SchemaMutant]) -> dict[str, str]:
    """The source of every module that one of the mutants is in, by its dotted name."""
    files: dict[Path, dict[tuple[int, int, int, int], list[tuple[int, SchemaMutant]]]] = {}
    modules = {}
    for number, mutant in numbered.items():
        files.setdefault(mutant.path, {}).setdefault(mutant.place, []).append((number, mutant))
        modules[mutant.path] = mutant.module
    return {modules[path]: _rewritten(path, places) for path, places in files.items()}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Gives rewritten sources in place of those on disk."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in self.sources:
            return None
        origin = RTL.parent.joinpath(*fullname.split(".")[1:]).with_suffix(".py")
        return importlib.util.spec_from_file_location(fullname, origin, loader=self)

    def get_source(self, fullname: str) -> str:
        return self.sources[fullname]


def install(sources: Mapping[str, str]) -> None:
    """From now on this process imports these sources. Raises MutationError where it has imported one of the modules before."""
    early = sorted(set(sources) & set(sys.modules))
    if early:
        raise MutationError(f"{', '.join(early)} are imported already, as they are on disk")
    sys.meta_path.insert(0, _Finder(sources))


def _wholes(root: ast.ClassDef | ast.FunctionDef) -> list[tuple[Site, ast.expr]]:
    """Sites with the expression that is chosen there, each once, the smallest first."""
    constants = {
        id(part.value)
        for part in root.body
        if isinstance(root, ast.ClassDef) and isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None
    }  # attributes of the class: no hardware, and a lambda does not see its other attributes
    # What a block gives a name to and then assigns to is no value: a wire in its place would have two drivers.
    driven = {site.target.split(".")[0] for site in sites(root) if site.drives}
    found: dict[int, tuple[Site, ast.expr]] = {}
    for site in sites(root):
        if site.kind not in ("", "if") or site.declares or id(site.node) in constants:
            continue
        if not site.drives and site.kind == "" and site.target in driven:
            continue
        whole = site.node
        if site.kind == "if":
            match site.node:
                case ast.Call(func=ast.Attribute(attr="If" | "Elif"), args=[condition]):
                    whole = condition
                case _:
                    continue
        found.setdefault(id(whole), (site, whole))
    return sorted(found.values(), key=lambda item: sum(1 for _ in ast.walk(item[1])))


def _place(node: ast.expr) -> tuple[int, int, int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def _replaced(root: ast.AST, node: ast.AST, put: ast.AST) -> ast.AST:
    """A copy of ``root`` with ``put`` in place of ``node``."""
    if root is node:
        return put
    made = copy.copy(root)
    for field, value in ast.iter_fields(root):
        if isinstance(value, ast.AST):
            setattr(made, field, _replaced(value, node, put))
        elif isinstance(value, list):
            setattr(made, field, [_replaced(part, node, put) if isinstance(part, ast.AST) else part for part in value])
    return made


def _rewritten(path: Path, places: Mapping[tuple[int, int, int, int], Sequence[tuple[int, SchemaMutant]]]) -> str:
    class Rewrite(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            here = places.get(_place(node), ()) if isinstance(node, ast.expr) else ()
            inner = self.generic_visit(node)
            if not here or not isinstance(inner, ast.expr):
                return inner
            one = here[0][1].sized
            arguments = [ast.Constant(one), _deferred(inner)]
            for number, mutant in here:
                arguments.append(ast.Tuple([ast.Constant(number), _deferred(ast.parse(mutant.text, mode="eval").body)], ast.Load()))
            return ast.Call(ast.Name(HELPER, ast.Load()), arguments, [])

    tree = Rewrite().visit(ast.parse(path.read_text(encoding="utf-8")))
    first = next(i for i, part in enumerate(tree.body) if not _leads(part))
    tree.body.insert(first, ast.parse(f"from loralith.verif.mutation.choice import choose as {HELPER}").body[0])
    return ast.unparse(ast.fix_missing_locations(tree))


def _leads(statement: ast.stmt) -> bool:
    """A docstring, or an import from the future."""
    return isinstance(statement, ast.Expr) or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")


def _deferred(value: ast.expr) -> ast.expr:
    return ast.Lambda(ast.arguments([], [], None, [], [], None, []), value)
