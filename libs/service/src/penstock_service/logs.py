"""Structured logs: one JSON object per line on stderr, ours and the libraries' alike."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, Final

import structlog

_NOISY: Final = ("httpx", "httpx2", "httpcore", "urllib3", "asyncio")
"""Libraries whose INFO lines are one per request."""


def configure_logging(service: str, level: str = "INFO") -> None:
    """Send structlog's and the standard library's records to stderr as JSON lines.

    Every line has ``timestamp`` (ISO 8601, UTC), ``level``, ``logger``, ``event`` and ``service``;
    bound values such as topic, partition, offset and event_id become keys of their own. May be
    called again; the last call holds.

    Parameters
    ----------
    service
        Name put on every line.
    level
        Lowest level written, such as INFO.

    Raises
    ------
    ValueError
        If there is no such level.

    Notes
    -----
    Use ``structlog.get_logger(__name__)``, or ``logging`` where a library needs one.
    """
    shared: Sequence[Any] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _AddService(service),
        structlog.processors.format_exc_info,
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=repr),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


class _AddService:
    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        event.setdefault("service", self._service)
        return event
