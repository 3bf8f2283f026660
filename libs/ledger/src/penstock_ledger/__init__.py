"""The ledger: proof from outside that every event ended in exactly one outcome.

It knows only the public contract (topic names, Avro schemas, headers, consumer groups); of the
project it uses nothing but the schemas and their codec, and has fastavro judge that one. `reader`
copies what a foreign Kafka client sees into a `Store` (sqlite); `checks` asks that store one SQL
query per invariant.
"""

from penstock_ledger.checks import Finding, Report, check
from penstock_ledger.decoding import RecordDecoder
from penstock_ledger.invariants import INVARIANTS, Invariant
from penstock_ledger.live import check_pipeline
from penstock_ledger.log_client import LogClient
from penstock_ledger.reader import ReadOptions, read_pipeline
from penstock_ledger.records import Counter, Fault, LedgerTopics, RawRecord, RecordColumns
from penstock_ledger.reigns import Tolerance
from penstock_ledger.store import Store
from penstock_ledger.topic_range import LedgerUnreachable, TopicRange

__all__ = [
    "INVARIANTS",
    "Counter",
    "Fault",
    "Finding",
    "Invariant",
    "LedgerTopics",
    "LedgerUnreachable",
    "LogClient",
    "RawRecord",
    "ReadOptions",
    "RecordColumns",
    "RecordDecoder",
    "Report",
    "Store",
    "Tolerance",
    "TopicRange",
    "check",
    "check_pipeline",
    "read_pipeline",
]
