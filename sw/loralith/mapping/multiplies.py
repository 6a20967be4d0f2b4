"""Which modules multiply matrices, though nothing maps them. Read from their code: there is no input yet to run them with."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn

__all__ = ["reason"]

FUNCTIONS = frozenset(
    {"linear", "bilinear", "multi_head_attention_forward", "scaled_dot_product_attention"}
    | {f"conv{turned}{n}d" for turned in ("", "_transpose") for n in (1, 2, 3)}
)
"""Functions of torch.nn.functional that multiply matrices."""
OPERATIONS = frozenset(
    {"matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "einsum", "tensordot", "inner", "chain_matmul"}
    | {"_scaled_mm", "_grouped_mm", "_int_mm"}
)
"""Those of torch, and of tensors."""
TORCH = ("torch", "functional", "F", "nn")
PROJECTIONS = frozenset(
    {"to_q", "to_qkv", "q", "q_proj", "q_lin", "query", "qkv", "qkv_proj", "query_key_value", "Wqkv", "c_attn", "W_pack", "wq"}
)
"""Names of the layers that make queries."""
LIBRARY = (nn.modules.conv._ConvNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def reason(module: nn.Module) -> str:
    """What ``module`` itself multiplies, its children not counted: "" where it multiplies nothing."""
    kind = type(module)
    if isinstance(module, LIBRARY):
        return f"nothing maps {kind.__name__}"
    if any(name in PROJECTIONS for name, _ in module.named_children()):
        return f"nothing maps {kind.__name__}: its products of queries, keys and values stay in torch"
    if _multiplies(kind):
        return f"nothing maps {kind.__name__}, whose forward function multiplies matrices"
    return ""


@cache
def _multiplies(kind: type[nn.Module]) -> bool:
    """Whether the forward function of ``kind``, or a method that it calls, multiplies matrices. False where its source is not there."""
    waiting, seen = ["forward"], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in _nodes(getattr(kind, name, None)):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
                return True
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            if isinstance(function, ast.Name) and function.id in FUNCTIONS | OPERATIONS:
                return True
            if isinstance(function, ast.Attribute):
                if function.attr == "einsum" and len(node.args) == 2 and not isinstance(node.args[1], ast.Starred):
                    continue  # of one tensor, whose dimensions it exchanges
                owner = function.value.attr if isinstance(function.value, ast.Attribute) else getattr(function.value, "id", "")
                if function.attr in OPERATIONS and owner != "self":
                    return True
                if function.attr in FUNCTIONS and owner in TORCH:
                    return True
                if owner == "self":
                    waiting.append(function.attr)
    return False


def _nodes(function: Any) -> Iterator[ast.AST]:
    """Of a method's body."""
    function = inspect.unwrap(function) if callable(function) else None
    if not inspect.isfunction(function) or getattr(nn.Module, function.__name__, None) is function:
        return
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return
    for statement in getattr(tree.body[0], "body", []):
        yield from ast.walk(statement)
