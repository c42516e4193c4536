from typing import Any

LOOPS: dict[str, Any]
