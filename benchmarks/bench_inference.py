"""Kafka → model → Kafka: the hand-written loop against Penstock's inference service.

Both read the same topic in the same run, one after the other in turns; what counts is what a
read_committed reader of their output can see. The bare loop is ``p_bare.py`` of the peer scripts,
unmodified: record-wise Avro, ONNX in process, at least once, a four-field output. Penstock runs as
deployed: a router replica in Ray Serve, Triton over gRPC, exactly once, the whole Prediction.

    python benchmarks/bench_inference.py [--records N] [--repeats R] [--peers DIR]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import measure
import workloads
from measure import Measured
from peers import BareLoop, Penstock, Run
from penstock_stack.endpoints import Endpoints

HERE = Path(__file__).parent
COMPONENTS = ("kafka", "registry", "triton", "ray")
VERSIONS = ("confluent-kafka", "fastavro", "pyruhvro", "onnxruntime", "ray", "tritonclient")


@contextmanager
def infrastructure(data_dir: Path, offset: int) -> Iterator[Endpoints]:
    """Run Kafka, registry, Triton and Ray for the time of the benchmark."""
    log = data_dir / "stack.log"
    data_dir.mkdir(parents=True, exist_ok=True)
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock_stack", str(data_dir), str(offset), *COMPONENTS],
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "ready:" in log.read_text(), process, log, 180)
        yield Endpoints.from_environment(os.environ, offset)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, deadline_s: float
) -> None:
    """Wait for a condition while a process lives; an error shows the end of its log."""
    limit = time.monotonic() + deadline_s
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"exited with {process.returncode}: {log.read_text()[-800:]}")
        if time.monotonic() > limit:
            raise RuntimeError(f"not within {deadline_s:.0f} s: {log.read_text()[-800:]}")
        time.sleep(0.1)


def measured(run: Run, bootstrap: str, records: int) -> Measured:
    """Start one contender on a fresh output topic, watch it to the end, stop it."""
    workloads.create_topic(bootstrap, run.output)
    with run.started() as pids:
        return measure.watch(bootstrap, run.output, workloads.PARTITIONS, records, pids)


def report(results: dict[str, list[Measured]], records: int) -> str:
    """Return the table in Markdown: medians, spread, and the ratio within each repeat."""
    bare = results.get("bare loop")
    lines = [
        f"{records:,} records, {len(next(iter(results.values())))} repeats in turns, "
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in VERSIONS),
        "",
        "| contender | visible | events/s median (min to max) | x bare | CPU s per 1 M | RSS MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        rates = [r.events_per_s for r in runs]
        ratio = "-"
        if bare is not None:
            pairs = zip(rates, (b.events_per_s for b in bare), strict=True)
            ratio = f"{statistics.median(a / b for a, b in pairs):.2f}"
        lines.append(
            f"| {name} | {min(r.events for r in runs):,} "
            f"| {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {ratio} "
            f"| {statistics.median(r.cpu_s_per_million for r in runs):.1f} "
            f"| {statistics.median(r.rss_mib for r in runs):.0f} |"
        )
    return "\n".join(lines)


def append_rows(results: dict[str, list[Measured]], records: int) -> None:
    """Append one row per run to results/inference.csv."""
    path = HERE / "results" / "inference.csv"
    path.parent.mkdir(exist_ok=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    rows = [
        {
            "commit": commit,
            "day": time.strftime("%Y-%m-%d"),
            "cores": os.cpu_count(),
            "records": records,
            "contender": name,
            "repeat": repeat,
            **{key: round(value, 2) for key, value in asdict(run).items()},
        }
        for name, runs in results.items()
        for repeat, run in enumerate(runs)
    ]
    fresh = not path.exists()
    with path.open("a", newline="") as sink:
        writer = csv.DictWriter(sink, rows[0], lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--port-offset", type=int, default=20_000)
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path(os.environ.get("PENSTOCK_PEERS", HERE.parents[1] / "shared/bench/peers")),
        help="folder of p_bare.py",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        data_dir = Path(folder)
        with infrastructure(data_dir, options.port_offset) as endpoints:
            bootstrap = endpoints.address("KAFKA")
            penstock = Penstock(data_dir, endpoints)
            penstock.prepare()
            topic = penstock.input_topic
            workloads.fill(bootstrap, topic, options.records, penstock.schema_id)
            contenders: dict[str, Callable[[int], Run]] = {}
            bare = BareLoop(options.peers, data_dir, bootstrap, topic)
            if bare.script.exists():
                contenders["bare loop"] = bare.run
            else:
                print(f"no row for the bare loop: {bare.script} is not there", file=sys.stderr)
            contenders["penstock, exactly once"] = penstock.run
            results: dict[str, list[Measured]] = {name: [] for name in contenders}
            for repeat in range(options.repeats):
                for name, start in contenders.items():
                    results[name].append(measured(start(repeat), bootstrap, options.records))
                    print(json.dumps({name: str(results[name][-1])}), file=sys.stderr, flush=True)
    print(report(results, options.records))
    append_rows(results, options.records)
    lost = [n for n, runs in results.items() if any(r.events != options.records for r in runs)]
    if lost:
        print(f"not every record had exactly one visible output: {lost}", file=sys.stderr)
    return 1 if "penstock, exactly once" in lost else 0


if __name__ == "__main__":
    sys.exit(main())
