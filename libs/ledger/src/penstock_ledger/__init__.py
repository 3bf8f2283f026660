"""The ledger: proof from outside that every event ended in exactly one outcome.

It knows only the public contract (topic names, Avro schemas, headers, consumer groups) and shares
no code with the pipeline it checks. `reader` copies what a foreign Kafka client sees into a
`Store` (sqlite); `checks` asks that store one SQL query per invariant.
"""

from penstock_ledger.checks import Finding, Report, check
from penstock_ledger.decoding import RecordDecoder
from penstock_ledger.reader import ReadOptions, read_pipeline
from penstock_ledger.records import Counter, LedgerTopics, RawRecord
from penstock_ledger.store import Store

__all__ = [
    "Counter",
    "Finding",
    "LedgerTopics",
    "RawRecord",
    "ReadOptions",
    "RecordDecoder",
    "Report",
    "Store",
    "check",
    "read_pipeline",
]
