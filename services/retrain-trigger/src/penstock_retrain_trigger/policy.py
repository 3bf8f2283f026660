"""Whether a request becomes a training. Pure: ledger, pipeline.yaml and the time in, decision out.

The first rule that speaks against a request is the reason of its suppression:

========  ==================================================================  ================
class     rule                                                                holds by hand too
========  ==================================================================  ================
invalid   its id names a job on Ray and a run: letters, digits, `_`, `.`, `-`  yes
disabled  `retrain.enabled` of pipeline.yaml                                  no
in flight one training of a pipeline at a time                                yes
cooldown  `retrain.cooldown_s` since the last accepted one not by hand        no
budget    `retrain.max_per_day` accepted within 24 hours                      yes
========  ==================================================================  ================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from penstock_pipelines.model import Retrain
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import ACCEPTED, BY_HAND, REQUEST_ID, SUPPRESSED, Ledger

ReasonClass = Literal["", "invalid", "disabled", "in flight", "cooldown", "budget"]
DAY_MS: Final = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Decision:
    """Accepted, or suppressed for a reason.

    Parameters
    ----------
    rule
        Class of the reason, empty if accepted.
    reason
        The rule and its figures, for people.
    """

    rule: ReasonClass = ""
    reason: str = ""

    @property
    def state(self) -> str:
        """The state of the retrain event."""
        return SUPPRESSED if self.rule else ACCEPTED


def decide(request: RetrainEvent, ledger: Ledger, policy: Retrain, now_ms: int) -> Decision:
    """Decide about a request that has no decision yet.

    Parameters
    ----------
    now_ms
        Milliseconds since the epoch, UTC.

    Examples
    --------
    >>> asked = RetrainEvent.request("r1", "fraud", 0, "drift")
    >>> decide(asked, Ledger(), Retrain(enabled=False), 0).reason
    'disabled: retrain.enabled is false in pipeline.yaml'
    """
    is_by_hand = request.source in BY_HAND
    if not REQUEST_ID.fullmatch(request.request_id):
        return _suppressed("invalid", f"request id must match {REQUEST_ID.pattern}")
    if not policy.enabled and not is_by_hand:
        return _suppressed("disabled", "retrain.enabled is false in pipeline.yaml")
    running = ledger.in_flight()
    if running:
        return _suppressed("in flight", f"request {running[0].request_id} is {running[0].state}")
    left_s = 0.0 if is_by_hand else cooldown_left_s(ledger, policy, now_ms)
    if left_s > 0:
        return _suppressed("cooldown", f"{left_s:.0f} s left of {policy.cooldown_s:.0f} s")
    spent = accepted_within_a_day(ledger, now_ms)
    if spent >= policy.max_per_day:
        return _suppressed("budget", f"{spent} of {policy.max_per_day} accepted in 24 h")
    return Decision()


def cooldown_left_s(ledger: Ledger, policy: Retrain, now_ms: int) -> float:
    """Return the seconds until a request other than by hand may be accepted."""
    for request in reversed(ledger.accepted()):
        decision = request.decision
        if decision is not None and decision.event.source not in BY_HAND:
            # A clock that was set back must not make the wait longer than it ever is.
            since_s = max(0.0, (now_ms - decision.event.at) / 1000)
            return max(0.0, policy.cooldown_s - since_s)
    return 0.0


def accepted_within_a_day(ledger: Ledger, now_ms: int) -> int:
    """Return how many requests were accepted in the last 24 hours."""
    decisions = (request.decision for request in ledger.accepted())
    return sum(d is not None and d.event.at > now_ms - DAY_MS for d in decisions)


def last_accepted_ms(ledger: Ledger) -> int | None:
    """Return when a request was last accepted."""
    accepted = ledger.accepted()
    decision = accepted[-1].decision if accepted else None
    return None if decision is None else decision.event.at


def _suppressed(rule: ReasonClass, figures: str) -> Decision:
    return Decision(rule, f"{rule}: {figures}")
