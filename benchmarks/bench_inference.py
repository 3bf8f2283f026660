"""Kafka → model → Kafka: Penstock against what a user would pick instead.

All contenders read the same topic in the same run, in turns; what counts is what a read_committed
reader of their output sees. See README.md beside this file for what is compared and why.

    python benchmarks/bench_inference.py [--quick] [--part PART]… [--only NAME]… [--repeats N]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import latency
import measure
import plot
import tables
import workloads
from confluent_kafka import KafkaException
from contenders import BARE, Contender, Place, chosen
from latency import Latency, Offer
from measure import Limits
from peers import Peers
from penstock_rows import COSTS, LATENCIES, SYSTEMS
from penstock_runs import Penstock
from penstock_stack.endpoints import Endpoints
from processes import infrastructure
from tables import Runs

HERE: Final = Path(__file__).parent
PARTS: Final = ("systems", "costs", "latency")
WHOLE_WINDOW_S: Final = 90.0
"""For what is read to its end."""


@dataclass(slots=True)
class Bench:
    """One run of the benchmark.

    Parameters
    ----------
    schema_ids
        By kind of input.
    """

    options: argparse.Namespace
    penstock: Penstock
    schema_ids: dict[str, int]
    results: dict[str, Runs] = field(default_factory=dict)
    latencies: dict[str, list[Latency]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    runs: int = 0
    mark: str = field(default_factory=lambda: uuid.uuid4().hex[:6])

    def throughput(self, contenders: Sequence[Contender]) -> None:
        """Run each contender once per repeat, in turns."""
        topics = {c.reads: f"bench-{self.mark}.{c.reads}" for c in contenders}
        for kind, topic in topics.items():
            schema = workloads.VECTOR_SCHEMA if kind == "vectors" else workloads.EVENT_SCHEMA
            payloads = workloads.pool(schema, self.schema_ids[kind])
            workloads.fill(self.penstock.bootstrap, topic, self.options.records, payloads)
        for repeat in range(self.options.repeats):
            for contender in contenders:
                self._tried(contender, partial(self.once, contender, repeat, topics))
        own = [name for topic in topics.values() for name in (topic, f"{topic}.dlq")]
        workloads.delete_topics(self.penstock.bootstrap, own)

    def latency(self, contenders: Sequence[Contender]) -> None:
        """Run each contender once per rate and repeat, in turns; the broker's first run is lost."""
        for first in contenders[:1]:
            self._tried(first, partial(self._offered, first, max(self.options.rates)))
        for repeat in range(self.options.latency_repeats):
            for contender in contenders:
                for rate in self.options.rates:
                    self._tried(contender, partial(self._judged, contender, rate, repeat))

    def _tried(self, contender: Contender, call: Callable[[], object]) -> None:
        """Let one failed run cost one figure and not the whole benchmark."""
        try:
            call()
        except (RuntimeError, TimeoutError, OSError, KafkaException) as exc:
            self.faults.append(f"{contender.name}: {exc}")
            tables.show(f"FAILED: {exc}", contender.name)

    def _place(self, contender: Contender, source: str) -> Place:
        self.runs += 1
        tag = f"bench-{self.mark}-{self.runs}"
        return Place(source or f"{tag}.in", f"{tag}.out", tag)

    def once(self, contender: Contender, repeat: int, topics: dict[Any, str]) -> None:
        """Run a contender on the topic of its kind of input, from its start to its end."""
        place = self._place(contender, topics[contender.reads])
        bootstrap, options = self.penstock.bootstrap, self.options
        workloads.create_topic(bootstrap, place.output)
        window_s = WHOLE_WINDOW_S if contender.is_whole else options.window_s
        limits = Limits(warm_s=options.warm_s, window_s=window_s)
        try:
            with contender.started(place) as running:
                watched = measure.watch(
                    bootstrap,
                    place.output,
                    workloads.PARTITIONS,
                    options.records,
                    running.pids,
                    limits,
                )
                fill = running.batch_fill()
            run = measure.measured(bootstrap, place.output, watched, limits.warm_s, fill)
        finally:
            self._tidy(place)
        self.results.setdefault(contender.name, {})[repeat] = run
        facts = {"records": options.records, "contender": contender.name, "repeat": repeat}
        tables.append_row(options.results / "throughput.csv", facts, run)
        tables.show(run, contender.name)
        if contender.is_whole and run.events != options.records:
            self.faults.append(
                f"{contender.name}: {run.events:,} visible outputs of {options.records:,} records"
            )

    def _offered(self, contender: Contender, rate: int) -> Latency:
        place = self._place(contender, "")
        offer = Offer(self.penstock.bootstrap, rate, self.options.latency_seconds, self.schema_ids)
        try:
            return latency.run(contender, place, offer)
        finally:
            self._tidy(place)

    def _judged(self, contender: Contender, rate: int, repeat: int) -> None:
        run = self._offered(contender, rate)
        name = contender.name
        self.latencies.setdefault(name, []).append(run)
        facts = {"contender": name, "repeat": repeat}
        tables.append_row(self.options.results / "latency.csv", facts, run)
        tables.show(run, name)
        if contender.is_ours and (run.got != run.sent or run.duplicates):
            self.faults.append(f"{name}: {run.got:,} of {run.sent:,}, {run.duplicates} twice")

    def _tidy(self, place: Place) -> None:
        own = [
            place.output,
            *(f"{place.tag}.{t}.v1" for t in ("features", "ingest-state", "models")),
        ]
        own += [place.source] if place.source.startswith(place.tag) else []
        workloads.delete_topics(self.penstock.bootstrap, own)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; --quick sets small numbers where none are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="small numbers: does it work, not how fast is it")
    add("--part", action="append", choices=PARTS, help="leave out the other parts")
    add("--only", action="append", default=[], metavar="NAME", help="part of a contender's name")
    add("--records", type=int, help="records of the topics (4,000,000)")
    add("--repeats", type=int, help="runs of each contender (5)")
    add("--window-s", type=float, help="longest measurement of the others, seconds (20)")
    add("--warm-s", type=float, help="not counted after the first output, seconds (2)")
    add("--rates", type=int, nargs="+", help="offered events/s of the latency (2000 10000)")
    add("--latency-seconds", type=float, help="judged time of each latency run (12)")
    add("--latency-repeats", type=int, help="runs of each latency (3)")
    add("--port-offset", type=int, default=20_000, help="where its infrastructure listens")
    add("--running", type=Path, help="data folder of a stack that runs at --port-offset")
    add("--results", type=Path, default=HERE / "results", help="folder of CSV, table and plot")
    add("--readme", action="store_true", help="put the table into README.md")
    add("--json", action="store_true", help="print JSON in place of Markdown")
    peers = Path(os.environ.get("PENSTOCK_PEERS", HERE.parents[1] / "shared/bench/peers"))
    add("--peers", type=Path, default=peers, help="folder of p_bare.py (PENSTOCK_PEERS)")
    options = parser.parse_args(arguments)
    quick = {"records": 200_000, "repeats": 1, "window_s": 5.0, "warm_s": 0.5}
    quick |= {"rates": [500], "latency_seconds": 3.0, "latency_repeats": 1}
    full = {"records": 4_000_000, "repeats": 5, "window_s": 20.0, "warm_s": 2.0}
    full |= {"rates": [2_000, 10_000], "latency_seconds": 12.0, "latency_repeats": 3}
    for name, value in (quick if options.quick else full).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.part = options.part or list(PARTS)
    return options


def run(options: argparse.Namespace, data_dir: Path) -> int:
    """Run what the options ask for and print it; 1 if a run of ours failed or lost a record."""
    began = time.monotonic()
    with ExitStack() as stack:
        endpoints = Endpoints.from_environment(os.environ, options.port_offset)
        if options.running is None:
            stack.enter_context(infrastructure(data_dir, options.port_offset))
        penstock = Penstock(data_dir, options.running or data_dir, endpoints)
        stack.callback(penstock.tidy)
        triton = (penstock.triton, penstock.triton_pids)
        environments = HERE.parent / ".penstock" / "bench" / "peers"
        peers = Peers(options.peers, data_dir, penstock.bootstrap, triton, environments)
        theirs = peers.contenders() if {"systems", "latency"} & set(options.part) else []
        everyone = [*theirs, *penstock.contenders(SYSTEMS + COSTS)]
        slow = [c for c in theirs if c.name == BARE] + penstock.contenders(LATENCIES)
        names = {c.name for c in chosen([*everyone, *slow], options.only)}
        wanted = [c for c in everyone if c.group in options.part and c.name in names]
        bench = Bench(options, penstock, penstock.prepare())
        try:
            if "latency" in options.part:  # first: before the broker has gigabytes to write down
                bench.latency([c for c in slow if c.name in names])
            bench.throughput(wanted)
        finally:
            notes = [f"{options.records:,} records, 4 partitions; contenders in turns."]
            notes += [f"Left out: {name}: {why}." for name, why in peers.skipped.items()]
            _publish(bench, wanted, notes, began)
    for fault in bench.faults:
        print(fault, file=sys.stderr)
    ours = {c.name for c in (*everyone, *slow) if c.is_ours}
    return 1 if any(fault.partition(": ")[0] in ours for fault in bench.faults) else 0


def _publish(bench: Bench, wanted: list[Contender], notes: list[str], began: float) -> None:
    options = bench.options
    notes.append(f"The whole run took {(time.monotonic() - began) / 60:.0f} minutes.")
    text = tables.report(wanted, bench.results, bench.latencies, notes)
    (options.results / "inference.md").write_text(text, encoding="utf-8")
    plot.draw(options.results / "inference.png", wanted, bench.results, bench.latencies)
    if options.readme:
        tables.put_into(HERE / "README.md", text)
    if options.json:
        print(tables.as_json(bench.results, bench.latencies, bench.faults))
    else:
        print(text)


def in_own_folder(
    options: argparse.Namespace, call: Callable[[argparse.Namespace, Path], int]
) -> int:
    """Run a benchmark in a data folder that is gone afterwards."""
    options.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        return call(options, Path(folder))


if __name__ == "__main__":
    sys.exit(in_own_folder(options_of(None), run))
