"""What our commands print alike: names with their values, and why a command can't go on."""

from __future__ import annotations

import sys
from collections.abc import Mapping


def named_lines(values: Mapping[str, str]) -> list[str]:
    """A line a value, after its name; the values begin in one column.

    >>> named_lines({"GPU": "H100", "driver": "580.1"})
    ['GPU     H100', 'driver  580.1']
    """
    width = max(map(len, values))
    return [f"{name:<{width}}  {value}" for name, value in values.items()]


def printable(text: str) -> str:
    r"""`text`, quoted where it would move the cursor or colour a terminal.

    >>> printable("norm"), printable("\x1b[2J")
    ('norm', "'\\x1b[2J'")
    """
    return text if text.isprintable() else ascii(text)


def failed(error: object, status: int = 2) -> int:
    """Say on stderr what is the matter, and return the exit status."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return status
