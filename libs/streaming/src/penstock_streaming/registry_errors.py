"""The registry client's errors in our terms: the only place that knows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from confluent_kafka.schema_registry.error import SchemaRegistryError
from penstock_schemas.errors import ConfigError, PenstockError, RegistryUnavailable

AUTHORIZATION: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class Refused(PenstockError):
    """The registry answered with an error; the caller knows what it means."""

    def __init__(self, doing: str, error: SchemaRegistryError) -> None:
        super().__init__(f"{doing}: {error}")
        self.status = int(error.http_status_code)
        self.code = int(error.error_code) if error.error_code is not None else -1
        self.text = str(error.error_message)[:300]

    def about(self, subject: str) -> ConfigError | RegistryUnavailable:
        """Return the error for a schema sent under a subject."""
        if self.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            return ConfigError(f"subject {subject!r}: not a schema: {self.text}")
        return self.unavailable()

    def unavailable(self) -> RegistryUnavailable:
        """Return the error for an answer that only a registry in trouble gives."""
        return RegistryUnavailable(str(self)[:500])


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn whatever a call of the client raises into our errors."""
    try:
        yield
    except SchemaRegistryError as exc:
        if exc.http_status_code in AUTHORIZATION:
            raise ConfigError(f"{doing}: the registry refuses our credentials") from exc
        raise Refused(doing, exc) from exc
    except Exception as exc:
        # The client's transport is another library from version to version, so its classes cannot
        # be named here. No answer, a proxy's page, half a body: each is an outage.
        raise RegistryUnavailable(f"{doing}: {type(exc).__name__}: {exc}") from exc
