"""What a framed Avro value is, said twice: by our strict reader of one record, and by fastavro.

The strict reader is what a batch must agree with. fastavro lets more pass; what it reads to the
last byte, finds valid and writes back unchanged is good beyond doubt, and what it cannot read or
leaves bytes of is bad beyond doubt.
"""

from __future__ import annotations

import io
import json
from typing import Any, Final

import fastavro
import pyarrow as pa
from penstock_schemas.avro_columns import columns_of
from penstock_schemas.avro_rows import parsed, row_reader
from penstock_schemas.codec import ColumnarEncoder
from penstock_schemas.errors import RecordError, SchemaError

SCHEMA_ID: Final = 7
HEAD: Final = b"\x00\x00\x00\x00\x07"


class AvroJudge:
    """Judge of the values of one writer's schema, read as one reader's schema.

    Parameters
    ----------
    writer, reader
        Schema texts; the writer's has the id `SCHEMA_ID`, no other id is known.
    """

    def __init__(self, writer: str, reader: str) -> None:
        self._reader = row_reader(writer, reader)
        self._writer = parsed(writer)
        self._wanted = None if writer == reader else parsed(_named_alike(reader, writer))

    def verdict(self, value: bytes) -> dict[str, Any] | str:
        """Return the row that a value is, or its dead-letter class."""
        if len(value) < len(HEAD) or value[0] != 0:
            return "decode"
        if not value.startswith(HEAD):
            return "schema"
        try:
            row = self._reader.read(value)
        except RecordError as exc:
            if self._is_plain(value) and not isinstance(exc, SchemaError):
                raise AssertionError(f"the strict reader refuses {value!r}, which is good") from exc
            return exc.dead_letter_class
        stream = io.BytesIO(value[len(HEAD) :])
        read = fastavro.schemaless_reader(stream, self._writer, self._wanted)
        assert stream.tell() == len(value) - len(HEAD), (value, "the strict reader left bytes")
        assert repr(read) == repr(row), (value, "the strict reader reads another record")
        return row

    def _is_plain(self, value: bytes) -> bool:
        """Tell whether fastavro reads, accepts and writes back the very bytes."""
        stream, again = io.BytesIO(value[len(HEAD) :]), io.BytesIO()
        try:
            row = fastavro.schemaless_reader(stream, self._writer, None)
            fastavro.schemaless_writer(again, self._writer, row)
            is_valid = fastavro.validate(row, self._writer, raise_errors=False)
        except Exception:  # it raises whatever the bytes make it stumble over
            return False
        return is_valid and again.getvalue() == value[len(HEAD) :]


def resolve(writer: str, schema_id: int) -> str:
    """Return the writer's schema by its id; no other id is known."""
    if schema_id != SCHEMA_ID:
        raise SchemaError("unknown schema id", schema_id=schema_id)
    return writer


def same_rows(columns: pa.RecordBatch, rows: list[dict[str, Any]], text: str) -> bool:
    """Tell whether columns hold rows; a NaN equals any other, whose bits no Python float keeps."""
    encoder = ColumnarEncoder(text, SCHEMA_ID)
    found, wanted = (encoder.encode(c) for c in (columns, columns_of(rows, columns.schema)))
    return found == wanted or (
        len(found) == len(wanted)
        and all(
            a == b or repr(_plain(a, text)) == repr(_plain(b, text))
            for a, b in zip(found, wanted, strict=True)
        )
    )


def _plain(value: bytes, text: str) -> Any:
    return fastavro.schemaless_reader(io.BytesIO(value[len(HEAD) :]), parsed(text), None)


def _named_alike(reader: str, writer: str) -> str:
    return json.dumps({**json.loads(reader), "name": json.loads(writer)["name"]})
