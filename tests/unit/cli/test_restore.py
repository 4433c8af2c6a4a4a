from typing import Any

import pytest

from cli import restore as command
from cli.finished import Finished
from cli.operate import report
from cli.order import Order


def parse(*words: str, monkeypatch: pytest.MonkeyPatch) -> Order:
    """Return the order that a command line gives."""
    given: list[Order] = []
    monkeypatch.setattr(command, "operate", lambda order, **_: given.append(order) or 0)
    command.restore.main([*words], standalone_mode=False)
    return given[0]


def test_stale_disks_are_forced_only_by_their_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else gives a guest disks that its memory does not know."""
    plain = parse("a.save", "--local", monkeypatch=monkeypatch)
    forced = parse("a.save", "--local", "--force-stale-disks", monkeypatch=monkeypatch)

    assert "force_stale_disks" not in plain.params
    assert forced.params["force_stale_disks"] is True


def test_help_says_what_forcing_risks() -> None:
    """Before anybody takes it for a formality."""
    (option,) = [found for found in command.restore.params if "--force-stale-disks" in found.opts]

    assert "corrupt their file systems" in option.help  # type: ignore[attr-defined]


@pytest.mark.parametrize(("is_quiet", "as_json"), [(False, False), (True, False), (False, True)])
def test_warnings_go_to_stderr(capsys: pytest.CaptureFixture[str], is_quiet: bool, as_json: bool) -> None:
    """On one line each, without terminal control; in JSON they are where everything is."""
    result: dict[str, Any] = {"domain": "web-1", "host": "alpha", "warnings": ["disk vda\x1b[2J changed"]}
    done = Finished(op="restore", label="a.save", host="alpha", result=result)
    order = Order(op="restore", params={"path": "a.save"}, is_quiet=is_quiet, as_json=as_json)

    report(order, [done], is_told=True)

    printed = capsys.readouterr()
    if as_json:
        assert '"disk vda\\u001b[2J changed"' in printed.out
        assert printed.err == ""
    else:
        line = "fleetsave: warning: a.save: disk vda\\x1b[2J changed\n"
        assert printed.err == ("" if is_quiet else line)
