"""What the command line prints: text of models, servers and files is shown, and never obeyed by the terminal."""

from __future__ import annotations

import os
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PIPE_WIDTH = 120  # of tables that go into a file or another program


def safe(text: object) -> str:
    """Text whose control characters but newline are marks that can be seen, and do nothing to a terminal.

    >>> print(safe("red\\x1b[2J things"))
    red‹U+001B›[2J things
    """
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") else _mark(c) for c in str(text))


def _mark(character: str) -> str:
    return f"‹U+{ord(character):04X}›"


def cell(text: object, style: str = "") -> Text:
    """Text as a table shows it, as it is: no markup."""
    from rich.text import Text

    return Text(safe(text), style)


def console(stderr: bool = False) -> Console:
    """Where to print; as wide as the terminal, or as `COLUMNS` says."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def say(text: str, stderr: bool = True) -> None:
    """Print lines as they are, however long."""
    console(stderr).print(safe(text), markup=False, soft_wrap=True)
