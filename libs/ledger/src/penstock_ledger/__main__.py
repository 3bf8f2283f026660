"""``python -m penstock_ledger``: check a running pipeline; exit 0 if every invariant holds."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from penstock_ledger.checks import Report, check
from penstock_ledger.reader import LedgerUnreachable, LogClient, ReadOptions, read_pipeline
from penstock_ledger.records import LedgerTopics
from penstock_ledger.store import Store

EXIT_OK, EXIT_FAILED, EXIT_UNREACHABLE = 0, 1, 3


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="penstock_ledger", description=__doc__)
    parser.add_argument("pipeline")
    parser.add_argument("--bootstrap-servers", default="127.0.0.1:9092")
    parser.add_argument("--registry-url", default="http://127.0.0.1:8081/apis/ccompat/v7")
    parser.add_argument("--database", type=Path, help="keep the sqlite file here")
    parser.add_argument("--marks", type=Path, help="file of --mark: look only at what came later")
    parser.add_argument("--mark", action="store_true", help="print the present ends as JSON, stop")
    parser.add_argument(
        "--drained", action="store_true", help="an event without an end is a failure"
    )
    parser.add_argument("--timeout-s", type=float, default=300.0)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser.parse_args()


def _check(arguments: argparse.Namespace, topics: LedgerTopics) -> Report:
    marks = {}
    if arguments.marks is not None:
        read = json.loads(arguments.marks.read_text())
        marks = {topic: {int(p): o for p, o in ends.items()} for topic, ends in read.items()}
    store = Store(topics, arguments.database)
    try:
        options = ReadOptions(
            arguments.bootstrap_servers, arguments.registry_url, marks, arguments.timeout_s
        )
        read_pipeline(store, options)
        return check(store)
    finally:
        store.close()


def main() -> int:
    """Run the command and return its exit code."""
    arguments = _arguments()
    topics = LedgerTopics.of(arguments.pipeline)
    try:
        if arguments.mark:
            sys.stdout.write(
                json.dumps(LogClient(arguments.bootstrap_servers).marks(topics)) + "\n"
            )
            return EXIT_OK
        report = _check(arguments, topics)
    except LedgerUnreachable as exc:
        sys.stderr.write(f"{exc}\n")
        return EXIT_UNREACHABLE
    text = json.dumps(asdict(report)) if arguments.output == "json" else str(report)
    sys.stdout.write(text + "\n")
    return EXIT_OK if report.ok and (report.drained or not arguments.drained) else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
