"""Mutants of every operator of a block: an operator exchanged, a constant one off, a condition dropped, a value stuck at zero."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from functools import reduce

from .pattern import expressions, operands
from .sites import Site

__all__ = ["variants"]

COMPARISONS = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
}
OPERATORS |= {ast.RShift: ast.LShift}
OPPOSITES = {"any": "all", "all": "any"}
SIZES = ("Signal", "Signal.like", "Const", "range", "len", "slice", "ceil_log2", "exact_log2")
"""What is called with sizes: a signal that is a bit wider is another circuit and no fault."""


def variants(site: Site) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(expression, what replaces it) of a site."""
    if site.kind == "if":
        match site.node:
            case ast.Call(func=ast.Attribute(attr="If" | "Elif"), args=[condition]):
                yield condition, ast.UnaryOp(ast.Invert(), condition)
                yield from _inside(condition)
        return
    yield from _inside(site.node)
    if site.drives and not isinstance(site.node, ast.Constant):
        yield site.node, ast.Constant(0)
        if isinstance(site.node, ast.Name | ast.Attribute | ast.Subscript):
            yield site.node, ast.UnaryOp(ast.Invert(), site.node)


def _inside(root: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    sizes = {
        id(part) for node in ast.walk(root) if isinstance(node, ast.Call) and ast.unparse(node.func) in SIZES for part in ast.walk(node)
    }
    for node in expressions(root):
        if id(node) not in sizes:
            yield from ((node, mutant) for mutant in _mutants(node))


def _mutants(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            yield ast.Compare(left, [COMPARISONS[type(op)]()], [right])
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
            if isinstance(op, ast.BitAnd | ast.BitOr):  # a condition dropped
                parts = operands(node, type(op))
                for i in range(len(parts)):
                    yield reduce(lambda one, other: ast.BinOp(one, type(op)(), other), parts[:i] + parts[i + 1 :])
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            yield operand
        case ast.Call(func=ast.Name(id="Mux"), args=[choice, one, other]):
            yield _called(node, [choice, other, one])
            yield one
            yield other
        case ast.Call(func=ast.Attribute(value=value, attr=attr), args=[]) if attr in OPPOSITES:
            yield ast.Call(ast.Attribute(value, OPPOSITES[attr], ast.Load()), [], [])
        case ast.Constant(value=bool() | str()):
            return
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
            if value > 0:
                yield ast.Constant(value - 1)


def _called(node: ast.Call, arguments: list[ast.expr]) -> ast.Call:
    mutant = copy.copy(node)
    mutant.args = arguments
    return mutant
