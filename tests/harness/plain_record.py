"""A record without a broker."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PlainRecord:
    """What is asked of the client's message, as plain values."""

    at: tuple[str, int, int] = ("t", 0, 0)
    a_key: bytes | None = None
    a_value: bytes | None = b"value"
    at_ms: int = 0
    a_header: list[tuple[str, bytes | None]] = field(default_factory=list)

    def topic(self) -> str:
        """Return the topic."""
        return self.at[0]

    def partition(self) -> int:
        """Return the partition."""
        return self.at[1]

    def offset(self) -> int:
        """Return the offset."""
        return self.at[2]

    def key(self) -> bytes | None:
        """Return the key."""
        return self.a_key

    def value(self) -> bytes | None:
        """Return the value."""
        return self.a_value

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of timestamp and the timestamp, milliseconds."""
        return 1, self.at_ms

    def headers(self) -> list[tuple[str, bytes | None]]:
        """Return the headers."""
        return self.a_header
