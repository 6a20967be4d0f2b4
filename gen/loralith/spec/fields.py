"""Bit fields of a fixed-size little-endian record: one declaration for hardware, host, header and documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Field", "FieldError", "Record"]


class FieldError(ValueError):
    """A value that its field cannot hold; the message names both."""


@dataclass(frozen=True)
class Field:
    """``width`` unsigned bits at bit ``lsb`` of 32-bit word ``word``; 64-bit fields take two whole words."""

    name: str
    word: int
    lsb: int
    width: int
    doc: str

    @property
    def offset(self) -> int:
        """Bit offset in the record."""
        return 32 * self.word + self.lsb


class Record:
    """Named bit fields in ``size`` bytes. Bits of no field are reserved and must be zero."""

    def __init__(self, name: str, size: int, layout: tuple[Field, ...], doc: str) -> None:
        self.name, self.size, self.doc = name, size, doc
        self.fields = {f.name: f for f in sorted(layout, key=lambda f: f.offset)}
        if len(self.fields) != len(layout):
            raise ValueError(f"{name}: a field's name stands twice")
        end = 0
        for f in self.fields.values():
            crosses = f.lsb + f.width > 32 and not (f.lsb == 0 and f.width == 64)
            if f.offset < end or crosses or f.offset + f.width > 8 * size:
                raise ValueError(f"{name}.{f.name}: overlaps, crosses a word or leaves the record")
            end = f.offset + f.width

    @property
    def reserved_mask(self) -> int:
        """Bits that belong to no field."""
        used = 0
        for f in self.fields.values():
            used |= ((1 << f.width) - 1) << f.offset
        return ((1 << 8 * self.size) - 1) ^ used

    def pack(self, values: Mapping[str, int]) -> bytes:
        """Little-endian bytes; fields not named are zero. Raises FieldError for an unknown field or a value out of range."""
        word = 0
        for key, value in values.items():
            f = self.fields.get(key)
            if f is None:
                raise FieldError(f"{self.name} has no field {key!r}; it has {', '.join(self.fields)}")
            if not 0 <= value < 1 << f.width:
                raise FieldError(f"{self.name}.{key} must be in 0..{(1 << f.width) - 1}, not {value}")
            word |= int(value) << f.offset
        return word.to_bytes(self.size, "little")

    def unpack(self, data: bytes) -> dict[str, int]:
        """All fields of a record of exactly ``size`` bytes. Raises FieldError for another length."""
        if len(data) != self.size:
            raise FieldError(f"{self.name} takes {self.size} bytes, not {len(data)}")
        word = int.from_bytes(data, "little")
        return {f.name: word >> f.offset & ((1 << f.width) - 1) for f in self.fields.values()}
