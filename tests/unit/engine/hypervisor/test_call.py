from __future__ import annotations

import threading
import time

import pytest

from engine.errors import HypervisorError, NoDomainError
from engine.hypervisor.call import HypervisorCall


def test_call_that_returns_has_no_error() -> None:
    """Success is a return without an error, at a known instant."""
    before = time.monotonic()
    call = HypervisorCall(lambda: None)
    assert (call.has_begun, call.has_returned) == (False, False)

    call.start()

    assert call.wait(20)
    assert (call.has_begun, call.error) == (True, None)
    assert before <= call.returned_at <= time.monotonic()


def test_call_keeps_the_error_it_failed_with() -> None:
    """An error of ours comes back as it was raised."""
    error = NoDomainError("web-1", "no such domain")

    def fail() -> None:
        raise error

    call = HypervisorCall(fail)
    call.start()

    assert call.wait(20)
    assert call.error is error


def test_foreign_error_becomes_one_of_ours() -> None:
    """Whatever else is raised is told in a sentence of ours, not lost in the thread."""

    def fail() -> None:
        raise ZeroDivisionError("by zero")

    call = HypervisorCall(fail)
    call.start()

    assert call.wait(20)
    assert isinstance(call.error, HypervisorError)
    assert "ZeroDivisionError: by zero" in str(call.error)


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_wait_ends_in_time(seconds: float) -> None:
    """A call that does not come back is not waited for any longer than asked."""
    release = threading.Event()

    def wait() -> None:
        release.wait()

    call = HypervisorCall(wait)
    call.start()

    assert not call.wait(seconds)
    assert call.error is None
    release.set()
    assert call.wait(20)
