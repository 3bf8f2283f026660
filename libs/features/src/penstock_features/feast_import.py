"""The first import of Feast in a process, made cheaper.

Feast decorates its classes with typeguard, which compiles each of them anew: two of the five
seconds of processor time of the import, in every process, to check Feast's own calls. Whoever uses
Feast calls `import_feast` first.
"""

from __future__ import annotations

import os
import sys
from typing import Any
from unittest import mock


def import_feast() -> None:
    """Import Feast without typeguard's decorator; afterwards plain imports find it."""
    if "feast" in sys.modules:
        return
    import typeguard

    os.environ["FEAST_USAGE"] = "False"  # older releases reported usage unless told otherwise
    with mock.patch.object(typeguard, "typechecked", _unchanged):
        import feast  # noqa: F401


def _unchanged(target: Any = None, **_: Any) -> Any:
    return _unchanged if target is None else target
