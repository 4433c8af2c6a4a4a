import os
import pty
import subprocess
import sys

from cli.display import LineDisplay, SilentDisplay, open_display

_TERMINAL = """
from cli.display import BarDisplay, open_display
from cli.finished import Finished
display = open_display(is_silent=False)
assert isinstance(display, BarDisplay)
with display:
    for key in ("a", "b"):
        display.begin(key, op="save", label=key, host="alpha", job_id="1")
        display.advance(key, done=50, total=None, note="running")
        display.advance(key, done=1024 * 1024, total=2 * 1024 * 1024, note="running stream")
    result = {"domain": "a", "bytes": 2 * 1024 * 1024, "throughput_bytes_per_second": 1e6}
    display.end("a", Finished(op="save", label="a", host="alpha", result=result))
    display.end("b", Finished(op="save", label="b", host="alpha", error={"code": 1}))
"""


def test_terminal_gets_bars_on_stderr() -> None:
    """Bytes, rate and what it is doing; stdout stays free for the result."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", _TERMINAL], stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True
    ) as started:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:
            pass  # Linux says EIO when the other end is closed.
        output, _ = started.communicate(timeout=30)
    os.close(ours)

    assert (started.returncode, output) == (0, "")
    text = shown.decode()
    assert "a: save on alpha" in text
    assert "2.0/2.0 MiB" in text
    assert "failed" in text


def test_pipe_gets_lines_and_silence_is_silent() -> None:
    """Pytest's own stderr is no terminal."""
    assert isinstance(open_display(is_silent=False), LineDisplay)
    assert type(open_display(is_silent=True)) is SilentDisplay
