"""What fields and schemas are made with: nothing is ever null, and every field says what it is."""

from __future__ import annotations

import pyarrow as pa

VERSION = 1


def field(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    """A field that is never null, with its documentation."""
    return pa.field(name, kind, nullable=False, metadata={"doc": doc})


def schema(*fields: pa.Field) -> pa.Schema:
    """A schema marked with the version of this file."""
    return pa.schema(fields, metadata={"kosmos.schema": str(VERSION)})


def struct(*fields: tuple[str, pa.DataType]) -> pa.StructType:
    """A struct of fields that are never null."""
    return pa.struct([pa.field(name, kind, nullable=False) for name, kind in fields])


def large_list(kind: pa.DataType) -> pa.LargeListType:
    """A large list whose items are never null."""
    return pa.large_list(pa.field("item", kind, nullable=False))


TEXT = pa.large_string()
ID16 = pa.binary(16)
