"""The project's one error tree. The class decides the action.

::

    PenstockError
    ├─ RecordError        the record is bad: it becomes a dead letter, the batch goes on
    │  ├─ DecodeError         class decode
    │  ├─ SchemaError         class schema
    │  ├─ RuleViolation       class rule
    │  ├─ ShapeMismatch       class shape
    │  ├─ ModelRejected       class model
    │  ├─ Oversize            class oversize
    │  └─ PoisonRecord        class poison
    ├─ RetryableError     a dependency is away or busy: pause, keep the offset, retry
    │  ├─ RegistryUnavailable
    │  ├─ ModelUnavailable
    │  ├─ BrokerUnavailable
    │  └─ FeatureStoreUnavailable
    ├─ Refused            a person asked for what policy does not allow: exit code 4
    └─ FatalError         program or settings are wrong: stop without committing, exit code not 0
       ├─ ConfigError
       ├─ SchemaIncompatible
       ├─ DeliveryFailed
       ├─ DataGap             records that were never read are gone
       └─ FencedError

Whatever is not in this tree is treated as fatal.
"""

from __future__ import annotations

from typing import ClassVar, Literal

DeadLetterClass = Literal["decode", "schema", "rule", "shape", "model", "oversize", "poison"]


class PenstockError(Exception):
    """Root of every error Penstock raises."""


class RecordError(PenstockError):
    """One record is bad. It becomes a dead letter and its neighbours go on.

    Parameters
    ----------
    message
        What is wrong, in one sentence, without the payload.
    field
        Name of the offending field, if there is one.
    expected, got
        What the contract asks for and what came, both short.
    stage
        Step that found it: decode, contract, features, infer, output, produce.
    schema_id
        Registry id of the writer's schema, where it was readable.

    Attributes
    ----------
    model
        The served model that refused the record; set where one did.
    """

    dead_letter_class: ClassVar[DeadLetterClass]
    default_stage: ClassVar[str] = "contract"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        stage: str | None = None,
        schema_id: int | None = None,
    ) -> None:
        parts = [message]
        if field is not None:
            parts.append(f"field {field!r}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {got}")
        super().__init__(", ".join(parts))
        self.message = message
        self.field = field
        self.expected = expected
        self.got = got
        self.stage = stage or self.default_stage
        self.schema_id = schema_id
        self.model: str | None = None


class DecodeError(RecordError):
    """The bytes are not what their framing says: bad magic, truncated, trailing, not JSON."""

    dead_letter_class = "decode"
    default_stage = "decode"


class SchemaError(RecordError):
    """The record does not fit its contract: unknown schema id, missing or mistyped field."""

    dead_letter_class = "schema"


class RuleViolation(RecordError):
    """A rule of pipeline.yaml is broken."""

    dead_letter_class = "rule"


class ShapeMismatch(RecordError):
    """Feature count, tensor shape or dtype is not the model's."""

    dead_letter_class = "shape"
    default_stage = "infer"


class ModelRejected(RecordError):
    """The model fails on this record and not on its neighbours, or its output is not finite."""

    dead_letter_class = "model"
    default_stage = "infer"


class Oversize(RecordError):
    """The record, or its output, is larger than the limit."""

    dead_letter_class = "oversize"


class PoisonRecord(RecordError):
    """The record keeps killing the worker."""

    dead_letter_class = "poison"
    default_stage = "infer"


class RetryableError(PenstockError):
    """A dependency is away or busy. The offset is kept and the work is tried again.

    Parameters
    ----------
    message
        Which dependency, and what it did.
    retry_after_s
        Seconds to wait before the next attempt.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RegistryUnavailable(RetryableError):
    """The schema registry does not answer, or is still starting."""


class ModelUnavailable(RetryableError):
    """The model server does not answer, or the model is not loaded."""


class BrokerUnavailable(RetryableError):
    """No broker answers."""


class FeatureStoreUnavailable(RetryableError):
    """The online feature store does not answer."""


class Refused(PenstockError):
    """The request is understood and not allowed; the message names the reason and the next step."""


class FatalError(PenstockError):
    """The program or its configuration is wrong. Nothing is committed."""


class ConfigError(FatalError):
    """A setting is missing, unknown or out of range; the message names it and the next step."""


class SchemaIncompatible(FatalError):
    """The registry refuses a schema as incompatible."""


class DeliveryFailed(FatalError):
    """A record could not be delivered and no retry can change that."""


class DataGap(FatalError):
    """Records that were never read are gone; an operator must choose the offset to continue at.

    Parameters
    ----------
    gaps
        Per partition the first offset that is missing and the first that is there again, None
        where that cannot be known.
    reason
        What the log holds instead.
    """

    def __init__(self, topic: str, gaps: dict[int, tuple[int, int | None]], reason: str) -> None:
        places = ", ".join(f"{p}: [{a}, {'?' if b is None else b})" for p, (a, b) in gaps.items())
        super().__init__(
            f"data_gap: {topic}: partition: offsets {places}: {reason}. Say where to go on with "
            "`penstock offsets seek`, then start the service again"
        )
        self.topic = topic
        self.gaps = gaps
        self.reason = reason


class FencedError(FatalError):
    """Another producer has the transactional id: this worker exits."""
