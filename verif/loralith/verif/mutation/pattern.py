"""Patterns of expressions: Python with placeholders `_a` to `_z`, each of which stands for any expression."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

__all__ = ["expressions", "find", "operands", "parse", "substitute"]

PLACEHOLDER = re.compile(r"_[a-z]")
COMMUTATIVE = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Add)

Bindings = Mapping[str, ast.expr]


def parse(text: str) -> ast.expr:
    """The expression of a pattern. Raises SyntaxError."""
    return ast.parse(text.strip(), mode="eval").body


def find(pattern: ast.expr, root: ast.expr) -> list[tuple[ast.expr, Bindings]]:
    """Where `pattern` fits, `root` itself included, and what its placeholders are there.

    A placeholder alone fits `root` and nothing in it. One that stands twice must be equal expressions. Operands of `&`, `|`, `^` and `+`
    are found in any order among those of a longer chain, of which the first placeholder alone takes the rest: `_a & ~stop` fits
    `valid & ~stop & fits`.
    """
    if _placeholder(pattern):
        return [(root, {_placeholder(pattern): root})]
    found = []
    for node in expressions(root):
        seen = set()
        for bindings in _match(pattern, node, {}):
            key = tuple((name, ast.dump(value)) for name, value in sorted(bindings.items()))
            if key not in seen:
                seen.add(key)
                found.append((node, bindings))
    return found


def substitute(template: ast.expr, bindings: Bindings) -> ast.expr:
    """`template` with its placeholders replaced. Raises KeyError for one that `bindings` does not have."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return copy.deepcopy(bindings[node.id]) if _placeholder(node) else node

    return Fill().visit(copy.deepcopy(template))


def _placeholder(node: ast.AST) -> str:
    """The name of a placeholder, empty for anything else."""
    return node.id if isinstance(node, ast.Name) and PLACEHOLDER.fullmatch(node.id) else ""


def expressions(root: ast.expr) -> Iterator[ast.expr]:
    """`root` and the expressions in it, of a chain of one commutative operator the whole chain alone."""
    inner = {
        id(side)
        for node in ast.walk(root)
        if isinstance(node, ast.BinOp) and isinstance(node.op, COMMUTATIVE)
        for side in (node.left, node.right)
        if isinstance(side, ast.BinOp) and type(side.op) is type(node.op)
    }
    for node in ast.walk(root):
        if isinstance(node, ast.expr) and id(node) not in inner:
            yield node


def _match(pattern: ast.AST, node: ast.AST, bound: Bindings) -> Iterator[Bindings]:
    name = _placeholder(pattern)
    if name:
        if isinstance(node, ast.expr) and (name not in bound or ast.dump(bound[name]) == ast.dump(node)):
            yield {**bound, name: node}
        return
    if type(pattern) is not type(node):
        return
    if isinstance(pattern, ast.BinOp) and isinstance(node, ast.BinOp) and isinstance(pattern.op, COMMUTATIVE):
        if type(pattern.op) is type(node.op):
            yield from _chain(operands(pattern, type(pattern.op)), operands(node, type(node.op)), type(node.op), bound)
        return
    ours = [getattr(pattern, field, None) for field in pattern._fields if field != "ctx"]
    theirs = [getattr(node, field, None) for field in pattern._fields if field != "ctx"]
    yield from _all(ours, theirs, bound)


def _all(ours: Sequence[object], theirs: Sequence[object], bound: Bindings) -> Iterator[Bindings]:
    """Every one of `ours` fits its counterpart."""
    if len(ours) != len(theirs):
        return
    if not ours:
        yield bound
        return
    mine, other = ours[0], theirs[0]
    if isinstance(mine, list) and isinstance(other, list):
        heads = _all(mine, other, bound)
    elif isinstance(mine, ast.AST) and isinstance(other, ast.AST):
        heads = _match(mine, other, bound)
    else:
        heads = iter([bound] if type(mine) is type(other) and mine == other else [])
    for head in heads:
        yield from _all(ours[1:], theirs[1:], head)


def operands(node: ast.expr, kind: type[ast.operator]) -> list[ast.expr]:
    """Of a chain of one operator all operands, in order; of anything else itself."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, kind):
        return [*operands(node.left, kind), *operands(node.right, kind)]
    return [node]


def _chain(parts: list[ast.expr], operands: list[ast.expr], kind: type[ast.operator], bound: Bindings) -> Iterator[Bindings]:
    """Parts that are no placeholders fit some of `operands`; the placeholders take the others in order, the first one all that it can."""
    named = [part for part in parts if not _placeholder(part)]
    if named:
        for i, operand in enumerate(operands):
            for head in _match(named[0], operand, bound):
                rest = [part for part in parts if part is not named[0]]
                yield from _chain(rest, operands[:i] + operands[i + 1 :], kind, head)
        return
    if not parts:
        if not operands:
            yield bound
        return
    spare = len(operands) - len(parts) + 1
    if spare < 1:
        return
    first = reduce(lambda left, right: ast.BinOp(left, kind(), right), operands[:spare])
    yield from _all(list(parts), [first, *operands[spare:]], bound)
