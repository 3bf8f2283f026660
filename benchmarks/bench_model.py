"""Kafka → a model that costs → Kafka, against a client that only sends it full batches.

Both ask the same Triton, in turns. The model is wide enough that everybody waits for the server:
what counts is how busy the service keeps it.

    python benchmarks/bench_model.py [--quick] [--width N] [--repeats N]
    python benchmarks/bench_model.py --triton HOST:PORT --models FOLDER --device KIND_GPU
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import bench_inference
import numpy as np
import tables
import tritonclient.grpc as grpcclient
import workloads
from bench_inference import Bench
from contenders import Contender
from penstock_rows import COSTS, SYSTEMS
from penstock_runs import SERVED_AS, Penstock
from penstock_stack.endpoints import Endpoints
from processes import infrastructure

CALLS: Final = 8
"""Calls away at once: as many as the service has for its two batches of 4,096 rows."""
WARM_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Direct:
    """One run of the client that only asks the model.

    Parameters
    ----------
    rows_per_s
        Rows answered per second, after a second of warm-up.
    """

    rows_per_s: float


def direct(address: str, seconds: float) -> Direct:
    """Send full batches for some seconds, `CALLS` of them at once."""
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(workloads.CALL_ROWS, workloads.N_FEATURES)).astype(np.float32)
    begin = time.monotonic() + WARM_S
    end = begin + seconds

    def answered(_: int) -> int:
        client = grpcclient.InferenceServerClient(address)
        tensor = grpcclient.InferInput("features", list(matrix.shape), "FP32")
        tensor.set_data_from_numpy(matrix)
        rows = 0
        while True:
            client.infer(SERVED_AS, [tensor], client_timeout=workloads.TIMEOUT_S)
            now = time.monotonic()
            if now > end:
                return rows
            rows += len(matrix) if now > begin else 0

    with ThreadPoolExecutor(CALLS) as pool:
        return Direct(sum(pool.map(answered, range(CALLS))) / seconds)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with those of a run of `Bench` that are the same for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="small numbers: does it work, not how fast is it")
    add("--width", type=int, default=1024, help="of the model's two hidden layers")
    add("--records", type=int, default=1_000_000, help="of the topic")
    add("--repeats", type=int, default=5, help="runs of each")
    add("--seconds", type=float, default=10.0, help="of the client that asks the model alone")
    add("--port-offset", type=int, default=20_000, help="where its infrastructure listens")
    add("--triton", metavar="HOST:PORT", help="gRPC of a model server elsewhere")
    add("--models", type=Path, help="its repository; it runs with --model-control-mode=explicit")
    add("--device", choices=("KIND_CPU", "KIND_GPU"), default="KIND_CPU", help="of the model")
    add("--results", type=Path, default=bench_inference.HERE / "results", help="folder of CSV")
    options = parser.parse_args(arguments)
    if (options.triton is None) is not (options.models is None):
        parser.error("--triton and --models: give both or none")
    if options.quick:
        options.records, options.repeats, options.seconds = 50_000, 1, 2.0
    return argparse.Namespace(**vars(options), warm_s=2.0 if not options.quick else 0.2)


def table(alone: Sequence[Direct], bench: Bench, contenders: Sequence[Contender]) -> str:
    """Return medians, spread, and the ratio to the client alone within each repeat."""
    rates = {"client alone": [run.rows_per_s for run in alone]}
    for contender in contenders:
        runs = bench.results.get(contender.name, {})
        rates[contender.name] = [runs[n].events_per_s for n in sorted(runs)]
    lines = [tables.heading(), ""]
    lines += ["| | n | rows/s, median (min to max) | x client alone |", "|---|---|---|---|"]
    for name, found in rates.items():
        if found:
            share = statistics.median(a / b.rows_per_s for a, b in zip(found, alone, strict=False))
            lines.append(f"| {name} | {len(found)} | {tables.spread(found, 0)} | {share:.2f} |")
    return "\n".join(lines)


def run(options: argparse.Namespace, data_dir: Path) -> int:
    """Run both in turns and print the table; 1 if a run failed or lost a record."""
    served = workloads.Served((options.width, options.width), options.device)
    server = (options.triton, options.models) if options.triton else None
    with ExitStack() as stack:
        endpoints = Endpoints.from_environment(os.environ, options.port_offset)
        stack.enter_context(infrastructure(data_dir, options.port_offset))
        penstock = Penstock(data_dir, data_dir, endpoints, served, server)
        stack.callback(penstock.tidy)
        bench = Bench(options, penstock, penstock.prepare())
        ours = penstock.contenders((COSTS[0], SYSTEMS[0]))
        ours = [replace(c, name=f"{c.name}, width {options.width}") for c in ours]
        topic = f"bench-{bench.mark}.vectors"
        payloads = workloads.pool(workloads.VECTOR_SCHEMA, bench.schema_ids["vectors"])
        workloads.fill(penstock.bootstrap, topic, options.records, payloads)
        alone = []
        for repeat in range(options.repeats):
            alone.append(direct(penstock.triton, options.seconds))
            tables.show(alone[-1], "client alone")
            for contender in ours:
                bench.once(contender, repeat, {"vectors": topic})
        print(table(alone, bench, ours))
    for fault in bench.faults:
        print(fault, file=sys.stderr)
    return 1 if bench.faults else 0


if __name__ == "__main__":
    sys.exit(bench_inference.in_own_folder(options_of(None), run))
