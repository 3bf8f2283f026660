"""Which modules one batch enters on its way from poll to commit, traced in a real router.

The router runs in this process against a broker, a registry and a Triton of its own. What counts
is each module of ours in which a function is called on the loop's thread, from the poll that
returns the batch to the return of its commit: for a batch of good records, and for one whose rows
go to champion and canary and of which one record is no Avro. Counted are modules that each of some
batches entered, after a first one: neither start-up nor what is done once a second.

    python benchmarks/record_way.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import confluent_kafka
from confluent_kafka import Message

ROWS: Final = 64
BATCHES: Final = 6
PREFIX: Final = "PENSTOCK_INFERENCE_"
OURS: Final = "penstock_"
WAIT_S: Final = 120.0
CANARY_WEIGHT: Final = 30


class Trace:
    """The modules that the loop's thread enters between a batch's first record and its commit.

    Attributes
    ----------
    batches
        For each batch the modules of ours, in the order in which they were entered first.
    """

    def __init__(self) -> None:
        self.batches: list[dict[str, None]] = []
        self._modules: dict[str, None] | None = None
        self._thread = 0
        self._has_ended = threading.Event()

    def begin(self) -> None:
        """Trace the calling thread from here on, if it is not traced already."""
        if self._modules is None:
            self._thread = threading.get_ident()
            self._modules = {}

    def end(self) -> None:
        """Trace no further; the call is bounded, so it may run in a thread of its own."""
        if self._modules is not None:
            self.batches.append(self._modules)
            self._modules = None
            self._has_ended.set()

    def await_end(self) -> None:
        """Wait for the commit of a batch."""
        if not self._has_ended.wait(WAIT_S):
            raise RuntimeError(f"no commit within {WAIT_S:.0f} s")
        self._has_ended.clear()

    @property
    def modules(self) -> list[str]:
        """What every batch but the first entered, in order."""
        last = self.batches[-1]
        return [name for name in last if all(name in batch for batch in self.batches[1:])]

    def on_call(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call, as `sys.setprofile` asks."""
        modules = self._modules
        if event != "call" or modules is None or self._thread != threading.get_ident():
            return
        module = frame.f_globals.get("__name__", "")
        if module.startswith(OURS):
            modules[module] = None


def client_classes(trace: Trace) -> tuple[type[Any], type[Any]]:
    """Return the consumer that begins the trace and the producer that ends it."""

    class Consumer(confluent_kafka.Consumer):
        def poll(self, timeout: float = -1) -> Message | None:
            message = super().poll(timeout)
            if message is not None:
                trace.begin()
            return message

    class Producer(confluent_kafka.Producer):
        def commit_transaction(self, *values: Any, **named: Any) -> None:
            super().commit_transaction(*values, **named)
            trace.end()

    return Consumer, Producer


@contextmanager
def traced(trace: Trace) -> Iterator[None]:
    """Trace the threads that start in the block, with the loop's clients replaced."""
    from penstock_streaming import clients

    consumer, producer = clients.Consumer, clients.Producer
    clients.Consumer, clients.Producer = client_classes(trace)
    threading.setprofile(trace.on_call)
    try:
        yield
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
        clients.Consumer, clients.Producer = consumer, producer


def produce(bootstrap: str, topic: str, records: list[tuple[bytes, bytes]]) -> None:
    """Put a batch into the first partition, as one request."""
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "linger.ms": 50})
    for key, value in records:
        producer.produce(topic, value, key, 0)
    if producer.flush(WAIT_S):
        raise RuntimeError(f"{topic}: not written within {WAIT_S:.0f} s")


def way(penstock: Any, root: Path, schema_id: int, *, with_canary: bool) -> list[str]:
    """Return the modules that one batch enters."""
    import workloads
    from contenders import Place
    from penstock_inference.router import Router
    from penstock_inference.settings import load_settings
    from penstock_pipelines.loader import load_pipeline
    from penstock_rows import COSTS
    from pipeline_folder import write_folder

    tag = f"way-{uuid.uuid4().hex[:6]}"
    place = Place(f"{tag}.vectors", f"{tag}.out", tag)
    folder = root / "pipelines" / tag
    write_folder(folder, place, COSTS[0].variant)
    penstock.make_topics(folder, place)
    if with_canary:
        penstock.add_canary(folder, tag, CANARY_WEIGHT)
    payloads = workloads.pool(workloads.VECTOR_SCHEMA, schema_id)
    records = list(payloads[:ROWS])
    for topic in (place.source, place.output):
        workloads.create_topic(penstock.bootstrap, topic)
    if with_canary:
        records[ROWS // 2] = (records[ROWS // 2][0], b"no Avro")
    trace = Trace()
    environment = penstock.common(PREFIX, COSTS[0].variant, folder, root / "run" / tag)
    os.environ.update(environment | {f"{PREFIX}TRITON__GRPC_URL": penstock.triton})
    with traced(trace):
        router = Router(load_settings(), load_pipeline(folder))
        try:
            limit = time.monotonic() + WAIT_S
            while not router.ready:
                if time.monotonic() > limit:
                    raise RuntimeError(f"the router is not ready within {WAIT_S:.0f} s")
                time.sleep(0.05)
            for _ in range(BATCHES):
                produce(penstock.bootstrap, place.source, records)
                trace.await_end()
        finally:
            router.close()
    return trace.modules


def show(name: str, modules: list[str]) -> None:
    """Print the modules in order and their number, by package too."""
    packages = Counter(module.partition(".")[0] for module in modules)
    print(f"{name}: {len(modules)} modules ({', '.join(f'{p} {n}' for p, n in packages.items())})")
    for module in modules:
        print(f"  {module}")


def main() -> int:
    """Trace both batches and print what they enter."""
    from penstock_runs import Penstock
    from penstock_stack.endpoints import Endpoints
    from processes import infrastructure

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port-offset", type=int, default=21_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="way-") as name:
        root = Path(name)
        endpoints = Endpoints.from_environment(os.environ, options.port_offset)
        with infrastructure(root, options.port_offset):
            penstock = Penstock(root, root, endpoints)
            schema_id = penstock.prepare()["vectors"]
            show("good batch", way(penstock, root, schema_id, with_canary=False))
            show("canary and a bad record", way(penstock, root, schema_id, with_canary=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
