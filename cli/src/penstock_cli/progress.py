"""The progress of a start or a stop, as lines on standard error."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from penstock_cli import console

if TYPE_CHECKING:
    from penstock_stack.state import ComponentState, StackState

_NEVER_STARTED = ("waiting", "stopped")


class Progress:
    """Prints each change of a component once. Called from the threads that make them."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._lock = threading.Lock()

    def show(self, state: StackState) -> None:
        """Print what is new in ``state``."""
        with self._lock:
            for name, component in state.components.items():
                before = self._shown.get(name, "waiting")
                if before == component.state or (before, component.state) == _NEVER_STARTED:
                    continue
                self._shown[name] = component.state
                console.note(f"  {name:<24} {_what(component)}")


def _what(component: ComponentState) -> str:
    is_first = component.ready_after_s is not None and not component.restarts
    if component.state in ("ready", "done") and is_first:
        return f"{component.state} after {component.ready_after_s} s"
    if component.state in ("restarting", "failed") and component.error:
        return f"{component.state}: {component.error.splitlines()[0]}"
    return component.state
