"""Penstock's rows of the tables, and how it runs in each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from contenders import ALONE, OURS, SERIES

Feast = Literal["", "kept", "read"]
"""None; kept while the store is unchanged, or read for every batch."""


@dataclass(frozen=True, slots=True)
class Variant:
    """How Penstock runs in one row.

    Parameters
    ----------
    serve
        As deployed, in a Ray Serve replica; else the same router as a bare process.
    ingest
        With ingest before it.
    without
        What is left out; see lone_router.py.
    feast
        Whether ingest has online features, and how they reach it.
    """

    delivery: str = "exactly_once"
    commit_ms: int = 100
    serve: bool = True
    ingest: bool = False
    without: str = ""
    feast: Feast = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Parameters
    ----------
    about
        What it is, for the reader of the table.
    """

    name: str
    about: str
    variant: Variant = Variant()


def _alone(name: str, about: str, **changed: Any) -> Row:
    return Row(f"{ALONE}{name}", about, Variant(serve=False, **changed))


_DEPLOYED: Final = "Serve replica, Triton over gRPC, 100 ms commits"
_ONLINE: Final = "rules, history, five features of Feast"

SYSTEMS: Final = (
    Row(OURS, _DEPLOYED),
    Row("penstock, at least once", _DEPLOYED, Variant("at_least_once")),
    Row(SERIES, f"rules, history; {_DEPLOYED}", Variant(ingest=True)),
    Row(
        f"{SERIES}, Feast",
        f"{_ONLINE}, kept while its store is unchanged; {_DEPLOYED}",
        Variant(ingest=True, feast="kept"),
    ),
    Row(
        f"{SERIES}, Feast reads",
        f"{_ONLINE}, read for every batch; {_DEPLOYED}",
        Variant(ingest=True, feast="read"),
    ),
)
COSTS: Final = (
    _alone("", "control: exactly once, 100 ms, no Serve around it"),
    _alone(", at least once", "no transactions", delivery="at_least_once"),
    _alone(", 20 ms", "a transaction every 20 ms", commit_ms=20),
    _alone(", 500 ms", "a transaction every 500 ms", commit_ms=500),
    _alone(", no metrics", "nothing counted", without="metrics"),
    _alone(", no journal", "no poison record found", without="journal"),
    _alone(", 4 fields", "the bare loop's output", without="prediction"),
)
LATENCIES: Final = (
    Row("penstock, at least once", "inference", Variant("at_least_once")),
    Row(f"{OURS}, 20 ms", "inference", Variant(commit_ms=20)),
    Row(f"{OURS}, 100 ms", "inference"),
    Row(f"{SERIES}, 100 ms", "both hops", Variant(ingest=True)),
    Row(f"{SERIES}, at least once", "both hops", Variant("at_least_once", ingest=True)),
)
