"""The strict judge of one Avro datum: whether its bytes are exactly one value of a type.

Libraries differ in what they let pass (trailing bytes, a boolean of 2, varints without end), and
whether a record is good must not depend on the batch it came in. Nothing is allocated from a
length that the bytes do not back.
"""

from __future__ import annotations

from typing import Final

from penstock_schemas.avro_types import AvroType
from penstock_schemas.errors import DecodeError

_FIXED_WIDTH: Final = {"null": 0, "float": 4, "double": 8}


def check_datum(data: bytes, start: int, avro_type: AvroType) -> None:
    """Check that ``data[start:]`` is exactly one value of ``avro_type``.

    Any encoding the Avro specification allows is accepted, the shortest or not.

    Raises
    ------
    DecodeError
        Naming the field at which the bytes stop making sense.

    References
    ----------
    Avro specification 1.12, Binary Encoding.
    """
    end = _skip(data, start, avro_type, "")
    if end != len(data):
        raise DecodeError(
            "trailing bytes after the record", expected="0", got=f"{len(data) - end} bytes"
        )


def _skip(data: bytes, at: int, node: AvroType, path: str) -> int:
    """Return the position behind the value at ``at``."""
    kind = node.kind
    width = _FIXED_WIDTH.get(kind, node.size if kind == "fixed" else -1)
    if width >= 0:
        return _advance(data, at, width, path)
    if kind in ("int", "long", "enum"):
        return _skip_number(data, at, node, path)
    if kind in ("string", "bytes"):
        return _skip_text(data, at, kind == "string", path)
    if kind == "boolean":
        if at < len(data) and data[at] > 1:
            raise DecodeError("malformed", field=path, expected="boolean", got=f"byte {data[at]}")
        return _advance(data, at, 1, path)
    if kind == "record":
        for member in node.fields:
            at = _skip(data, at, member.type, f"{path}.{member.name}" if path else member.name)
        return at
    if kind == "union":
        branch, at = _varint(data, at, path)
        _check_index(branch, len(node.branches), "union branch", path)
        return _skip(data, at, node.branches[branch], path)
    return _skip_blocks(data, at, node, path)


def _skip_number(data: bytes, at: int, node: AvroType, path: str) -> int:
    value, at = _varint(data, at, path)
    if node.kind == "enum":
        _check_index(value, len(node.symbols), "enum symbol", path)
    elif node.kind == "int" and not -(2**31) <= value < 2**31:
        raise DecodeError("malformed", field=path, expected="32-bit int", got=str(value))
    return at


def _skip_text(data: bytes, at: int, is_text: bool, path: str) -> int:
    length, at = _varint(data, at, path)
    if length < 0:
        raise DecodeError("malformed", field=path, expected="a length", got=str(length))
    end = _advance(data, at, length, path)
    if is_text:
        try:
            str(memoryview(data)[at:end], "utf-8")
        except UnicodeDecodeError as exc:
            raise DecodeError("malformed", field=path, expected="UTF-8", got=exc.reason) from exc
    return end


def _skip_blocks(data: bytes, at: int, node: AvroType, path: str) -> int:
    item = node.item()
    width = _FIXED_WIDTH.get(item.kind, item.size if item.kind == "fixed" else 0)
    while True:
        count, at = _varint(data, at, path)
        if count == 0:
            return at
        declared = None
        if count < 0:
            count = -count
            size, at = _varint(data, at, path)
            declared = at + size
        if node.kind == "array" and width:
            at = _advance(data, at, count * width, path)
        else:
            for _ in range(count):  # every turn consumes bytes, so it ends with them
                if node.kind == "map":
                    at = _skip_text(data, at, True, path)
                at = _skip(data, at, item, path)
        if declared is not None and declared != at:
            raise DecodeError("malformed", field=path, expected="a block of its declared size")


def _advance(data: bytes, at: int, width: int, path: str) -> int:
    if at + width > len(data):
        raise DecodeError(
            "truncated", field=path, expected=f"{width} bytes", got=f"{max(len(data) - at, 0)}"
        )
    return at + width


def _check_index(index: int, size: int, what: str, path: str) -> None:
    if not 0 <= index < size:
        raise DecodeError("malformed", field=path, expected=f"{what} below {size}", got=str(index))


def _varint(data: bytes, at: int, path: str) -> tuple[int, int]:
    """Return the zigzag number at ``at`` and the position behind it."""
    raw = shift = 0
    while True:
        if at >= len(data):
            raise DecodeError("truncated", field=path, expected="a number", got="the end")
        byte = data[at]
        at += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise DecodeError("malformed", field=path, expected="a number of at most 10 bytes")
    if raw >> 64:
        raise DecodeError("malformed", field=path, expected="64-bit number")
    return (raw >> 1) ^ -(raw & 1), at
