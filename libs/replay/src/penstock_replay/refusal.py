"""What policy does not allow, said to the person who asked."""

from __future__ import annotations

from penstock_schemas.errors import PenstockError


class Refused(PenstockError):
    """The request is understood and not allowed; the message names the reason and the next step."""
