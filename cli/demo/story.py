"""Tell a newcomer what happens, in order; or nothing, where a program listens."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from rich.text import Text

from cli.output import open_console, print_table


class Story:
    """Prints numbered chapters, sentences, commands and tables on standard output.

    Args:
        is_silent: print nothing.
    """

    def __init__(self, *, is_silent: bool) -> None:
        self.is_silent = is_silent
        self._console = open_console()
        self._chapter = 0

    def chapter(self, title: str) -> None:
        """Begin the next chapter."""
        self._chapter += 1
        self._print(Text.assemble("\n", (f"{self._chapter}. {title}", "bold")))

    def say(self, text: str, style: str = "") -> None:
        """Print one sentence or more."""
        self._print(Text(f"   {text}", style=style))

    def command(self, arguments: Sequence[str]) -> None:
        """Print a command as one would type it."""
        # Not wrapped: it is there to be copied.
        self._print(
            Text(f"   $ fleetsave {shlex.join(arguments)}", style="cyan", no_wrap=True), is_whole=True
        )

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
        """Print a table."""
        if not self.is_silent:
            print_table(columns, rows, right=right)
            sys.stdout.flush()

    def _print(self, text: Text, *, is_whole: bool = False) -> None:
        if not self.is_silent:
            self._console.print(text, soft_wrap=is_whole)
            # What the commands print to the same terminal must come after it.
            sys.stdout.flush()
