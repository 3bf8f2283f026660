"""A deadline for client calls that do not keep their own.

After a broker was killed, librdkafka's ``send_offsets_to_transaction`` was seen to stay for ten
minutes where five seconds were asked for. Such a call cannot be interrupted, only left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from penstock_streaming.errors import OutcomeUnknown

GRACE_S: Final = 2.0
"""Time beyond its own time-out that a call gets before it counts as hanging."""


def within(call: Callable[[float], object], timeout_s: float) -> None:
    """Make ``call(timeout_s)``, and give it up when it stays longer.

    Raises
    ------
    OutcomeUnknown
        If it has not returned in time. Its thread is left behind and ends when the call does; the
        client it was made on is to be dropped.
    """
    raised: list[BaseException] = []
    returned = threading.Event()

    def run() -> None:
        try:
            call(timeout_s)
        except BaseException as exc:
            raised.append(exc)
        finally:
            returned.set()

    threading.Thread(target=run, name="bounded-call", daemon=True).start()
    if not returned.wait(timeout_s + GRACE_S):
        raise OutcomeUnknown(f"the client has not returned {GRACE_S:.0f} s after its time-out")
    if raised:
        raise raised[0]
