import click
import pytest

from cli.failure import describe_failure, format_failure, wants
from engine.errors import AbiError, EngineError
from tasks.errors import BrokerError


def test_engine_error_keeps_its_class_and_exit_code() -> None:
    """A script reads from JSON what the process says by its exit status."""
    error = describe_failure(AbiError("dxml", "uuid A", "uuid B", "use the saved one"))

    assert (error["class"], error["code"], error["libvirt_code"]) == ("AbiError", 11, 67)
    assert format_failure(error) == "fleetsave: dxml: uuid A, want uuid B; use the saved one"


def test_usage_error_names_the_help_of_its_command() -> None:
    """Click's own errors end as ours do: one line, exit code 2, what to do."""
    context = click.Context(click.Command("save"), info_name="fleetsave save")

    error = describe_failure(click.UsageError("No such option: --bogus", ctx=context))

    assert error["code"] == 2
    assert format_failure(error) == "fleetsave: No such option: --bogus; see fleetsave save --help"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interruption_ends_with_130(error: BaseException) -> None:
    """As a shell says it of any command that Ctrl-C ended."""
    assert describe_failure(error)["code"] == 130


def test_unexpected_error_is_called_a_defect() -> None:
    """Whoever sees it learns what to add to the report."""
    error = describe_failure(ZeroDivisionError("division by zero"))

    assert error["code"] == 1
    assert "ZeroDivisionError: division by zero" in format_failure(error)
    assert "--debug" in format_failure(error)


def test_line_carries_no_line_break_and_no_terminal_control() -> None:
    """A domain's name may be hostile; the line stays one line and the terminal as it is."""
    line = format_failure(describe_failure(EngineError("a\nb", "\x1b[2Jgone\r", "x\u2028y")))

    assert line.isprintable()
    assert line.count("\n") == 0


def test_waiting_jobs_are_named() -> None:
    """After an outage the operator knows which jobs are queued."""
    error = describe_failure(BrokerError("broker", "refused", job_ids=["a1", "b2"]))

    assert error["fields"]["job_ids"] == ["a1", "b2"]
    assert "queued: a1, b2" in format_failure(error)


def test_words_behind_two_dashes_are_no_options() -> None:
    """A domain may be called --json."""
    assert wants("--json", ["save", "a", "--json"])
    assert not wants("--json", ["save", "--", "--json"])
