"""A loop's thread waits for what the loop needs, tells whether it lives, and ends the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from penstock_schemas.errors import FatalError, RegistryUnavailable
from penstock_service import loop_thread
from penstock_service.loop_thread import LoopThread, run_loops

JOIN_S = 10.0


@pytest.fixture(autouse=True)
def _usual_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process's collector as it is."""
    monkeypatch.setattr(loop_thread, "collect_seldom", lambda: None)


class StandInLoop:
    """Runs until it is stopped, or fails at once."""

    def __init__(self, error: Exception | None = None) -> None:
        self.ready = True
        self.heartbeat_age_s = 0.0
        self._error = error
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        if self._error is not None:
            raise self._error
        assert self._stopped.wait(JOIN_S)


def thread_of(outcomes: Iterator[StandInLoop | Exception], stop: threading.Event) -> LoopThread:
    def build() -> StandInLoop:
        found = next(outcomes)
        if isinstance(found, Exception):
            raise found
        return found

    thread = LoopThread("loop", build, stop, start_timeout_s=JOIN_S, stuck_after_s=1.0)
    thread.thread.start()
    return thread


def away() -> RegistryUnavailable:
    return RegistryUnavailable("away", retry_after_s=0.001)


def test_a_loop_is_built_again_until_what_it_needs_is_there() -> None:
    stop, loop = threading.Event(), StandInLoop()
    thread = thread_of(iter([away(), away(), loop]), stop)
    while not thread.is_ready:
        assert thread.is_live
    loop.heartbeat_age_s = 2.0
    assert not thread.is_live
    thread.stop()
    thread.thread.join(JOIN_S)
    assert not thread.has_failed
    assert stop.is_set()


def test_a_loop_that_fails_ends_the_process_and_is_not_live() -> None:
    stop = threading.Event()
    thread = thread_of(iter([StandInLoop(FatalError("wrong"))]), stop)
    assert stop.wait(JOIN_S)
    thread.thread.join(JOIN_S)
    assert thread.has_failed
    assert not thread.is_live


def test_a_stop_before_the_start_is_no_failure() -> None:
    stop = threading.Event()
    stop.set()
    thread = thread_of(iter([away()]), stop)
    thread.thread.join(JOIN_S)
    assert not thread.has_failed


def test_waiting_for_the_start_ends_and_what_was_opened_is_closed() -> None:
    def build() -> StandInLoop:
        raise away()

    closed: list[str] = []
    stop = threading.Event()
    thread = LoopThread(
        "loop",
        build,
        stop,
        start_timeout_s=0.0,
        stuck_after_s=1.0,
        on_end=lambda: closed.append("closed"),
    )
    thread.thread.start()
    thread.thread.join(JOIN_S)
    assert closed == ["closed"]
    assert thread.has_failed
    assert isinstance(thread.error, FatalError)


@pytest.mark.parametrize(("error", "code"), [(None, 0), (FatalError("no"), 1)])
def test_loops_of_a_service_end_together_and_a_failure_is_its_exit_code(
    error: Exception | None, code: int
) -> None:
    stop = threading.Event()
    loops = [StandInLoop(), StandInLoop(error)]
    threads = [
        LoopThread("loop", lambda loop=loop: loop, stop, start_timeout_s=JOIN_S, stuck_after_s=1.0)
        for loop in loops
    ]
    if error is None:
        threading.Timer(0.05, stop.set).start()
    found = run_loops(
        threads, stop, host="127.0.0.1", port=0, metrics=lambda: b"", drain_timeout_s=JOIN_S
    )
    assert found == code
    assert not any(each.thread.is_alive() for each in threads)
