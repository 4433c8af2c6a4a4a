"""Speak the engine's contract without a hypervisor: the domain's name says how the operation goes.

`wait-...` stands at step "stream" until the file `go` appears in the runtime directory, `crash-...`
kills itself, `refuse-...` ends with an error, `silent-...` ends without a last line, `busy-...` ends with an
error that passes at its job's first start; every other domain succeeds.
SIGTERM cancels one that waits; `deaf-...` waits as well and does not hear it, `late-...` waits at step
"commit" and does not hear it.
Each start is noted in the file `starts` of the runtime directory.
"""

import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_WAIT_SECONDS = 60.0


def say(event: str, **fields: Any) -> None:
    """Write one event."""
    line = json.dumps({"event": event, "at": datetime.now(UTC).isoformat(), **fields})
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def result_of(request: dict[str, Any]) -> dict[str, Any]:
    """Return a result as a save of 1 MiB would give it."""
    return {
        "op": request["op"],
        "job_id": request["job_id"],
        "domain": request["domain"],
        "domain_uuid": "11111111-2222-3333-4444-555555555555",
        "host": request["host"],
        "path": request["to"] or f"{request['store']}/point-{request['job_id']}",
        "bytes": 1048576,
        "duration_seconds": 0.5,
        "guest_paused_seconds": 0.25,
        "throughput_bytes_per_second": 2097152.0,
        "was_running": True,
        "bypass_cache": {
            "policy": request["bypass_cache"],
            "direct": True,
            "direct_bytes": 1048576,
            "buffered_bytes": 0,
            "resident_bytes": 0,
            "failures": [],
        },
        "checksum": {"algorithm": "blake3", "value": "ab" * 32},
        "dxml_changes": [],
        "data_path": "stream",
        "simulated": True,
        "request": request,
    }


class CancelledError(Exception):
    """SIGTERM came."""


def cancel(*_: object) -> None:
    """Stop where the engine stands."""
    raise CancelledError


def wait_go(runtime_dir: Path) -> None:
    """Wait until the test says go."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not (runtime_dir / "go").exists():
        if time.monotonic() > deadline:
            sys.exit("nobody said go")
        time.sleep(0.02)


def refuse(kind: str, code: int, message: str, *, transient: bool = False) -> int:
    """Write the error and return the exit status."""
    error = {"class": kind, "code": code, "message": message, "fields": {}, "transient": transient}
    say("error", error=error)
    return code


def main() -> int:
    """Run the request on standard input."""
    request = json.loads(sys.stdin.read())
    runtime_dir, domain = Path(request["runtime_dir"]), request["domain"] or ""
    signal.signal(signal.SIGTERM, signal.SIG_IGN if domain.startswith(("deaf-", "late-")) else cancel)
    with (runtime_dir / "starts").open("a") as starts:
        starts.write(f"{request['job_id']} {os.getpid()}\n")
    try:
        return perform(request, runtime_dir, domain)
    except CancelledError:
        return refuse("CancelledError", 130, "cancelled: by SIGTERM")


def perform(request: dict[str, Any], runtime_dir: Path, domain: str) -> int:
    """Do as the domain's name says; return the exit status."""
    say("step", step="preflight")
    if domain.startswith("busy-") and (runtime_dir / "starts").read_text().count(request["job_id"]) == 1:
        return refuse("DomainBusyError", 32, "another operation holds the domain", transient=True)
    say("step", step="staging")
    say("step", step="call")
    say("guest", state="paused")
    say("progress", bytes=524288, total=1048576)
    say("step", step="stream")
    if domain.startswith(("wait-", "deaf-")):
        wait_go(runtime_dir)
    if domain.startswith("refuse-"):
        return refuse("WrongStateError", 33, "domain is shut off")
    if domain.startswith("silent-"):
        return 3
    if domain.startswith("crash-"):
        sys.stderr.write("Traceback\nlast words\n\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    say("step", step="commit")
    if domain.startswith("late-"):
        wait_go(runtime_dir)
    say("step", step="committed")
    say("result", result=result_of(request))
    return 0


if __name__ == "__main__":
    sys.exit(main())
