"""Places of a block of the RTL, named by what they assign or guard."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["RTL", "SOC", "Site", "block_names", "locate", "sites"]

RTL = Path(__file__).resolve().parents[4] / "hw" / "loralith" / "rtl"
SOC = RTL.parent / "soc"
GUARDS = ("If", "Elif", "Else", "Switch", "Case", "State")


@dataclass(frozen=True)
class Site:
    """An expression of a block.

    Attributes:
        kind: "": a value; "if": the innermost `m.If` or its like around an assignment; "outer if": the one around that; "for": what a loop
            iterates over; "port": a signature's member.
        target: dotted name of what is assigned (or, under an "if", called on self), of the loop's variable, or of the port; of what a
            function returns the function's name.
        node: the expression; of an "if" with its `m.If`.
        drives: it is the value of an `eq`.
    """

    kind: str
    target: str
    node: ast.expr
    drives: bool = False

    @property
    def declares(self) -> bool:
        """Whether it is the declaration of a signal, or of several."""
        node = self.node.elt if isinstance(self.node, ast.ListComp | ast.GeneratorExp) else self.node
        return isinstance(node, ast.Call) and ast.unparse(node.func) in ("Signal", "Signal.like")

    def fits(self, at: str) -> bool:
        """Whether `at`, such as `count`, `o.valid`, `if count` or `for unit`, names this site: by the end of its dotted name."""
        kind, _, name = at.rpartition(" ")
        return self.kind == kind and (self.target == name or self.target.endswith("." + name))


@cache
def _parsed(path: Path, _changed: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _modules(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, _parsed(path, path.stat().st_mtime_ns)


def locate(block: str) -> list[tuple[Path, ast.ClassDef | ast.FunctionDef]]:
    """The files that define the class or function `block` at their top, and its definition there: of the RTL, else of the board."""

    def defined(folder: Path) -> list[tuple[Path, ast.ClassDef | ast.FunctionDef]]:
        return [
            (path, node)
            for path, tree in _modules(folder)
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == block
        ]

    return defined(RTL) or defined(SOC)


def block_names() -> list[str]:
    """The classes of the RTL that have an `elaborate`."""
    return sorted(
        node.name
        for _, tree in _modules(RTL)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(isinstance(part, ast.FunctionDef) and part.name == "elaborate" for part in node.body)
    )


@cache
def sites(root: ast.AST) -> tuple[Site, ...]:
    """All places below `root`, in the order of their text."""
    return tuple(sorted(_below(root), key=lambda site: (site.node.lineno, site.node.col_offset)))


def _below(root: ast.AST) -> Iterator[Site]:
    for node in ast.walk(root):
        match node:
            case ast.Call(func=ast.Attribute(value=target, attr="eq" | "append" as attr), args=[value]):
                yield from (Site("", name, value, attr == "eq") for name in _names(target))
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from _assigned(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield from _assigned(target, value)
            case ast.AugAssign(target=target, value=value) if not _domain(target):
                yield from (Site("", name, value) for name in _names(target))
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        yield Site("port", key.value, value)
            case ast.FunctionDef(name=name):
                yield from (Site("", name, part.value) for part in _returns(node) if part.value is not None)
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                yield from (Site("for", name, value) for name in _names(target))
            case ast.With(items=[ast.withitem(context_expr=ast.Call(func=ast.Attribute(attr=attr)) as guard)], body=body) if attr in GUARDS:
                for kind, depth in (("if", 0), ("outer if", 1)):
                    yield from (Site(kind, name, guard) for name in dict.fromkeys(_targets(body, depth)))


def _returns(function: ast.FunctionDef) -> Iterator[ast.Return]:
    """The function's own."""
    queue: list[ast.AST] = list(function.body)
    while queue:
        node = queue.pop(0)
        if isinstance(node, ast.Return):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            queue.extend(ast.iter_child_nodes(node))


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[Site]:
    """Of `a, b = x, y` a is x; of `a, b = f()` both are f()."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for part, one in zip(target.elts, value.elts, strict=True):
            yield from _assigned(part, one)
    else:
        yield from (Site("", name, value) for name in _names(target))


def _targets(body: list[ast.stmt], depth: int) -> Iterator[str]:
    """What the statements assign, or call on `self`, under `depth` guards of their own."""
    queue: list[tuple[ast.AST, int]] = [(node, depth) for node in body]
    while queue:
        node, inner = queue.pop(0)
        if inner == 0:
            match node:
                case ast.Call(func=ast.Attribute(value=target, attr="eq")):
                    yield from _names(target)
                case ast.Assign(targets=[target]):
                    yield from _names(target)
                case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name))):
                    yield name
        if isinstance(node, ast.With) and _guards(node):
            if inner:
                queue.extend((part, inner - 1) for part in node.body)
        else:
            queue.extend((part, inner) for part in ast.iter_child_nodes(node))


def _guards(node: ast.With) -> bool:
    match node.items:
        case [ast.withitem(context_expr=ast.Call(func=ast.Attribute(attr=attr)))]:
            return attr in GUARDS
    return False


def _domain(target: ast.expr) -> bool:
    """`m.d.comb` or `m.d.sync`."""
    return isinstance(target, ast.Attribute) and target.attr in ("comb", "sync")


def _names(target: ast.expr) -> Iterator[str]:
    """Dotted names of what an expression on the left stands for: of `Cat(a, b)` both, of `self.o.payload[i].as_value()` the first part."""
    match target:
        case ast.Name(id=name):
            yield name
        case ast.Attribute(value=value, attr=attr):
            names = list(_names(value))
            yield from (f"{name}.{attr}" for name in names) if names else [attr]
        case ast.Subscript(value=value) | ast.Starred(value=value):
            yield from _names(value)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                yield from _names(part)
        case (
            ast.Call(func=ast.Attribute(value=ast.Name(id="Value"), attr="cast"), args=parts)
            | ast.Call(func=ast.Name(id="Cat"), args=parts)
        ):
            for part in parts:
                yield from _names(part)
        case ast.Call(func=ast.Name(id="getattr"), args=[part, *rest]):
            names = list(_names(part))
            field = rest[0].value if rest and isinstance(rest[0], ast.Constant) else ""
            yield from (f"{name}.{field}" if field else name for name in names)
        case ast.Call(func=ast.Attribute(value=value)):
            yield from _names(value)
