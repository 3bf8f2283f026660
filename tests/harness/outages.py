"""What the tests of dependencies that are away, silent or slow have in common."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psutil
from harness.bare_router import BareRouter, counted
from harness.fault_window import FaultWindow
from harness.fault_world import FaultWorld
from harness.waiting import eventually, holds_for

MEBIBYTE = 1024 * 1024
QUIET_S = 2.5
"""Time in which a service that works would have committed something."""


@contextmanager
def seen_through(world: FaultWorld, **addresses: str) -> Iterator[None]:
    """Give services that are started in the block other addresses than the test's own."""
    real, routers = world.places, world.router_places
    world.places = replace(real, **addresses)  # type: ignore[arg-type]
    world.router_places = replace(routers, **addresses)  # type: ignore[arg-type]
    try:
        yield
    finally:
        world.places, world.router_places = real, routers


def registry_behind(world: FaultWorld, address: str) -> str:
    """Return the registry's URL with another host and port."""
    scheme, _, rest = world.places.registry.partition("://")
    return f"{scheme}://{address}/{rest.partition('/')[2]}"


def set_timeout(world: FaultWorld, seconds: float) -> None:
    """Change the deadline of the model in pipeline.yaml; for routers started later."""
    file = world.loaded.folder / "pipeline.yaml"
    file.write_text(file.read_text().replace("timeout_s: 2.0", f"timeout_s: {seconds}"))


def circuit(world: FaultWorld, state: str) -> bool:
    """Tell whether the circuit of the model is in a state, by the routers' metrics."""
    return counted(world.run_dir, "penstock_model_breaker_state", state=state) >= 1


def rebalances(world: FaultWorld) -> float:
    """Return how often partitions were given or taken."""
    return counted(world.run_dir, "penstock_rebalances_total")


def resident_mib(router: BareRouter) -> float:
    """Return the memory of a router."""
    return float(psutil.Process(router.pid).memory_info().rss) / MEBIBYTE


def await_standstill(window: FaultWindow) -> int:
    """Wait until inference commits nothing more; return how far it has come."""

    def stands() -> int:
        before = window.run.done("inference")
        threading.Event().wait(QUIET_S)
        return before if window.run.done("inference") == before else 0

    return eventually(stands, 30.0, "inference stands still", every_s=0.0)


def assert_nothing_dies(window: FaultWindow, done: int, seconds: float) -> None:
    """Assert that inference neither goes on nor drains its topic while its model is away."""
    lag = window.run.backlog("inference")
    holds_for(lambda: window.run.done("inference") == done, seconds, "it waits")
    assert window.run.backlog("inference") > lag, "the test sends nothing: it proves nothing"
    assert window.run.count("features_dlq") == 0, "the topic was drained into the dead letters"
