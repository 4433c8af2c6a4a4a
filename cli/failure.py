"""Turn whatever went wrong into one line, one JSON object and one exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from engine.errors import CancelledError, EngineError
from tasks.errors import UsageError


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Return the "error" object of any exception; its "code" is the exit code."""
    return _as_engine_error(error).to_dict()


def format_failure(error: dict[str, Any]) -> str:
    """Return the line for people: `fleetsave: <what is>, want <what should be>; <what to do>`."""
    text = f"fleetsave: {error.get('message') or error.get('class') or 'failed'}"
    if hint := error.get("hint"):
        text += f"; {hint}"
    return printable(text)


def printable(text: str) -> str:
    """Return the text on one line; names in it come from anywhere: no line breaks, no terminal control."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(text.split()))


def wants(option: str, words: Sequence[str]) -> bool:
    """Tell whether an option is among the words of the command line, even if they cannot be parsed."""
    end = words.index("--") if "--" in words else len(words)
    return option in words[:end]


def _as_engine_error(error: BaseException) -> EngineError:
    """Return the error in the engine's form."""
    match error:
        case EngineError():
            return error
        case click.Abort() | KeyboardInterrupt():
            return CancelledError("", "interrupted")
        case click.ClickException():
            return UsageError("", error.format_message().rstrip("."), hint=_see_help(error))
        case _:
            text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return EngineError(
                "unexpected error", text, hint="this is a defect: please report it with what --debug adds"
            )


def _see_help(error: click.ClickException) -> str:
    """Name the help that explains the command."""
    context = getattr(error, "ctx", None)
    return f"see {context.command_path} --help" if context else "see fleetsave --help"
