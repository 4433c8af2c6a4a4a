from __future__ import annotations

import threading

import pytest

from engine.cancel import CancelToken
from engine.errors import CancelledError


def test_fresh_token_stops_nobody() -> None:
    """Before anybody asks, every look goes on."""
    token = CancelToken()

    assert not token.is_cancelled
    assert not token.wait(0)
    token.raise_if_cancelled("here")


def test_cancelled_token_stops_everybody_and_says_why() -> None:
    """Every look fails, with place, reason, and what became of the guest."""
    token = CancelToken()
    token.cancel("by SIGTERM")

    for _ in range(2):
        with pytest.raises(CancelledError, match="here: cancelled: by SIGTERM; the guest is as it was"):
            token.raise_if_cancelled("here")
    assert token.is_cancelled
    assert token.wait(0)


def test_cancel_wakes_who_waits() -> None:
    """A wait in another thread ends at once."""
    token = CancelToken()
    woken: list[bool] = []
    waiter = threading.Thread(target=lambda: woken.append(token.wait(60)))
    waiter.start()

    token.cancel("by a test")

    waiter.join(20)
    assert woken == [True]
