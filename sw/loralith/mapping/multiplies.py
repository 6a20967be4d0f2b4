"""Which modules multiply matrices by code of their own. Read from that code: there is no input yet to run them with."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

__all__ = ["attends", "reason"]

FUNCTIONS = frozenset(
    {"linear", "bilinear", "multi_head_attention_forward", "scaled_dot_product_attention"}
    | {f"conv{transpose_suffix}{n}d" for transpose_suffix in ("", "_transpose") for n in (1, 2, 3)}
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
ATTEND = frozenset({"scaled_dot_product_attention", "dispatch_attention_fn"})
"""Torch's function of attention, and diffusers' dispatcher of it."""
INTERFACES = "ALL_ATTENTION_FUNCTIONS"
"""transformers' table of attention functions, of which the configuration chooses one."""
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
    processor = getattr(module, "processor", None)
    if processor is not None and _multiplies(type(processor)):
        return f"nothing maps {kind.__name__} with {type(processor).__name__}, which multiplies matrices"
    return ""


def attends(module: nn.Module) -> str | None:
    """Why attention's products in ``module`` cannot be had where it calls torch's `scaled_dot_product_attention`: "" where they can, None
    where neither its forward function nor its processor calls that."""
    processor = getattr(module, "processor", None)
    kinds = [type(module)] if processor is None else [type(module), type(processor)]
    found = [_code(kind) for kind in kinds]
    interface = any(code.interface for code in found)
    if not interface and not any(code.attends for code in found):
        return None
    if any(code.multiplies for code in found):
        return "its code multiplies matrices beside scaled_dot_product_attention"
    if interface:
        chosen = getattr(getattr(module, "config", None), "_attn_implementation", None)
        return "" if chosen == "sdpa" else f"its attention implementation is {chosen}; sdpa is mapped"
    backend = getattr(getattr(processor, "_attention_backend", None), "value", getattr(processor, "_attention_backend", None))
    return "" if backend in (None, "native") else f"its attention backend is {backend}; native is mapped"


def _multiplies(kind: type) -> bool:
    code = _code(kind)
    return code.multiplies or code.attends


@dataclass(frozen=True)
class _Code:
    """What a class's code does: calls torch's attention, multiplies matrices in another way, looks up transformers' table."""

    attends: bool
    multiplies: bool
    interface: bool


@cache
def _code(kind: type) -> _Code:
    """Of `forward` (of a processor `__call__`), the methods that it calls, and the functions of the same package. Nothing where the source
    is not there."""
    start: Any = getattr(kind, "forward" if issubclass(kind, nn.Module) else "__call__", None)
    waiting, seen = [start], set()
    attention = multiplies = interface = False
    while waiting:
        function = waiting.pop()
        if not callable(function) or function in seen:
            continue
        seen.add(function)
        names = getattr(inspect.unwrap(function), "__globals__", {})
        for node in _nodes(function):
            multiplies |= isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
            interface |= isinstance(node, ast.Name) and node.id == INTERFACES
            if not isinstance(node, ast.Call):
                continue
            name, owner = _called(node)
            if name in ATTEND and owner in ("", *TORCH):
                attention = True
            elif owner == "" and name in FUNCTIONS | OPERATIONS:
                multiplies = True
            elif owner == "":
                waiting.append(_neighbour(kind, names.get(name)))
            elif name == "einsum" and len(node.args) == 2 and not isinstance(node.args[1], ast.Starred):
                continue  # of one tensor, whose dimensions it exchanges
            elif owner == "self":
                waiting.append(getattr(kind, name, None))
            else:
                multiplies |= name in OPERATIONS or (name in FUNCTIONS and owner in TORCH)
    return _Code(attention, multiplies, interface)


def _called(node: ast.Call) -> tuple[str, str]:
    """(name, what it is looked up in: "" for a plain name, "?" for an expression) of a called function."""
    function = node.func
    if isinstance(function, ast.Name):
        return function.id, ""
    if isinstance(function, ast.Attribute):
        owner = function.value
        return function.attr, owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "?")
    return "", "?"


def _neighbour(kind: type, function: Any) -> Any:
    """``function`` where it is one of the module that ``kind`` is from."""
    return function if inspect.isfunction(function) and function.__module__ == kind.__module__ else None


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
