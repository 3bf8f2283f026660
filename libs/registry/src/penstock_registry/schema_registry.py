"""The schema registry with a deadline, a cache and a verdict that can be trusted.

Only a registry that answers and is ready may say that a schema id is unknown; everything else it
does is an outage, so that a registry which starts, hangs or fails never makes dead letters. Its
Confluent-compatible interface is used, whoever serves it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from penstock_schemas.errors import (
    ConfigError,
    PenstockError,
    RegistryUnavailable,
    SchemaError,
    SchemaIncompatible,
)
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, SecretStr

Compatibility = Literal["BACKWARD"]

SCHEMA_NOT_FOUND: Final = 40403
SUBJECT_NOT_FOUND: Final = 40401


class RegistrySettings(BaseModel):
    """Connection to the schema registry. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = "http://127.0.0.1:8081/apis/ccompat/v7"
    """Address of the Confluent-compatible interface; several may be given, by comma."""
    timeout_s: PositiveFloat = 5.0
    """Longest wait for an answer, seconds."""
    username: str | None = None
    """User of basic authentication."""
    password: SecretStr | None = None
    """Password of basic authentication."""
    ca_file: Path | None = None
    """PEM file of the certificate authority; the system's when unset."""
    cached_schemas: PositiveInt = 1000
    """Schemas kept, by id; they never change."""
    unknown_ttl_s: PositiveFloat = 5.0
    """Time for which an unknown id is not asked for again, seconds."""

    def as_client_config(self) -> dict[str, object]:
        """Return a new dictionary for the client, which by default waits for ever."""
        config: dict[str, object] = {
            "url": self.url,
            "timeout": self.timeout_s,
            "max.retries": 0,  # the loop retries, with its own pauses
            "cache.capacity": self.cached_schemas,
        }
        if self.username is not None:
            password = self.password.get_secret_value() if self.password else ""
            config["basic.auth.user.info"] = f"{self.username}:{password}"
        if self.ca_file is not None:
            config["ssl.ca.location"] = str(self.ca_file)
        return config


class RegistryClient:
    """Client of the schema registry. Thread-safe.

    Parameters
    ----------
    settings
        Where it is and how long to wait.
    clock
        Monotonic seconds; a test gives its own.

    Raises
    ------
    ConfigError
        If the address is not one.
    """

    def __init__(
        self, settings: RegistrySettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._texts: OrderedDict[int, str] = OrderedDict()
        self._unknown: OrderedDict[int, float] = OrderedDict()
        try:
            self._client = SchemaRegistryClient(settings.as_client_config())
        except (ValueError, TypeError, OSError) as exc:
            raise ConfigError(f"registry.url {settings.url!r}: {exc}") from exc

    def schema_text(self, schema_id: int) -> str:
        """Return the text of a schema.

        Raises
        ------
        SchemaError
            If a ready registry does not know the id, or it is not an Avro schema by itself.
        RegistryUnavailable
            If the registry does not answer, or is not ready to judge.
        """
        with self._lock:
            text = self._texts.get(schema_id)
            if text is not None:
                self._texts.move_to_end(schema_id)
                return text
            if self._clock() < self._unknown.get(schema_id, 0.0):
                raise _unknown(schema_id)
        text = self._fetch(schema_id)
        with self._lock:
            self._texts[schema_id] = text
            if len(self._texts) > self._settings.cached_schemas:
                self._texts.popitem(last=False)
                self._client.clear_caches()  # type: ignore[no-untyped-call] # its own has no bound
        return text

    def _fetch(self, schema_id: int) -> str:
        try:
            with translated(f"reading schema {schema_id}"):
                found = self._client.get_schema(schema_id)
        except RegistryRefused as exc:
            if exc.code != SCHEMA_NOT_FOUND or exc.status != HTTPStatus.NOT_FOUND:
                raise exc.unavailable() from exc
            # A registry that starts may answer before it has read its own log.
            if not self.ready():
                raise RegistryUnavailable("the registry is not ready") from exc
            with self._lock:
                self._unknown[schema_id] = self._clock() + self._settings.unknown_ttl_s
                if len(self._unknown) > self._settings.cached_schemas:
                    self._unknown.popitem(last=False)
            raise _unknown(schema_id) from exc
        if not found.schema_str:  # an answer that is not the registry's; the client has kept it
            self._client.clear_caches()  # type: ignore[no-untyped-call]
            raise RegistryUnavailable(f"reading schema {schema_id}: unreadable answer")
        if found.schema_type != "AVRO" or found.references:
            raise SchemaError(
                "the writer's schema is not Avro without references",
                got=str(found.schema_type),
                schema_id=schema_id,
            )
        return str(found.schema_str)

    def register(self, subject: str, schema_text: str) -> int:
        """Register a schema under a subject and return its id; the same one for the same text.

        Raises
        ------
        SchemaIncompatible
            If the subject's compatibility level refuses it.
        ConfigError
            If it is not a schema.
        RegistryUnavailable
            If the registry does not answer.
        """
        known = self.registered_id(subject, schema_text)
        if known is not None:
            return known
        try:
            with translated(f"registering {subject}"):
                return self._client.register_schema(subject, Schema(schema_text, "AVRO"))
        except RegistryRefused as exc:
            if exc.status == HTTPStatus.CONFLICT:
                message = f"subject {subject!r}: the schema is not compatible: {exc.text}"
                raise SchemaIncompatible(message) from exc
            raise exc.about(subject) from exc

    def registered_id(self, subject: str, schema_text: str) -> int | None:
        """Return the id of a schema under a subject; None if it is not registered there."""
        try:
            with translated(f"looking up {subject}"):
                schema = Schema(schema_text, "AVRO")
                return self._client.lookup_schema(subject, schema).schema_id
        except RegistryRefused as exc:
            if exc.code in (SCHEMA_NOT_FOUND, SUBJECT_NOT_FOUND):
                return None
            raise exc.about(subject) from exc

    def is_compatible(self, subject: str, schema_text: str) -> bool:
        """Tell whether the subject's latest version lets this schema follow; True if it is new."""
        try:
            with translated(f"checking {subject}"):
                schema = Schema(schema_text, "AVRO")
                return bool(self._client.test_compatibility(subject, schema))
        except RegistryRefused as exc:
            if exc.code in (SCHEMA_NOT_FOUND, SUBJECT_NOT_FOUND, 40402):
                return True
            raise exc.unavailable() from exc

    def compatibility(self, subject: str) -> str | None:
        """Return the compatibility level set on the subject; None if it has none of its own."""
        try:
            with translated(f"reading the level of {subject}"):
                return str(self._client.get_compatibility(subject))
        except RegistryRefused as exc:
            if exc.code in (SUBJECT_NOT_FOUND, 40408):
                return None
            raise exc.unavailable() from exc

    def set_compatibility(self, subject: str, level: Compatibility) -> None:
        """Set the compatibility level of a subject: a registry's own default may be NONE."""
        try:
            with translated(f"setting the level of {subject}"):
                self._client.set_compatibility(subject, level)
        except RegistryRefused as exc:
            raise exc.unavailable() from exc

    def ready(self) -> bool:
        """Tell whether the registry answers from its storage, in at most the timeout."""
        try:
            with translated("reading the global level"):
                self._client.get_compatibility()
        except (RegistryRefused, RegistryUnavailable):
            return False
        return True


def _unknown(schema_id: int) -> SchemaError:
    return SchemaError(
        "unknown schema id", expected="a registered id", got=str(schema_id), schema_id=schema_id
    )


AUTHORIZATION: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class RegistryRefused(PenstockError):
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
        raise RegistryRefused(doing, exc) from exc
    except Exception as exc:
        # The client's transport is another library from version to version, so its classes cannot
        # be named here. No answer, a proxy's page, half a body: each is an outage.
        raise RegistryUnavailable(f"{doing}: {type(exc).__name__}: {exc}") from exc
