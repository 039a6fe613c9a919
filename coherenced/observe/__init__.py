"""What the daemon tells of itself: logs, events, metrics.

structlog imports rich where it is installed, for coloured tracebacks: 3 MB of memory that
every host would pay for what a daemon must never print. It is kept from doing so.
"""

from __future__ import annotations

import sys
from typing import Any, cast

_loaded = "rich" in sys.modules
if not _loaded:
    cast(dict[str, Any], sys.modules)["rich"] = None
import structlog  # noqa: E402, F401

if not _loaded:
    del sys.modules["rich"]
