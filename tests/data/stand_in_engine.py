"""Speak the engine's contract without a hypervisor: the domain's name says how the operation goes.

`wait-...` stands at step "stream" until the file `go` appears in the runtime directory, `crash-...`
kills itself, `refuse-...` ends with an error, `silent-...` ends without a last line; every other domain
succeeds.
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


def wait_go(runtime_dir: Path) -> None:
    """Wait until the test says go."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not (runtime_dir / "go").exists():
        if time.monotonic() > deadline:
            sys.exit("nobody said go")
        time.sleep(0.02)


def main() -> int:
    """Run the request on standard input."""
    request = json.loads(sys.stdin.read())
    runtime_dir, domain = Path(request["runtime_dir"]), request["domain"] or ""
    with (runtime_dir / "starts").open("a") as starts:
        starts.write(f"{request['job_id']} {os.getpid()}\n")
    say("step", step="preflight")
    say("guest", state="paused")
    say("progress", bytes=524288, total=1048576)
    say("step", step="stream")
    if domain.startswith("wait-"):
        wait_go(runtime_dir)
    if domain.startswith("refuse-"):
        error = {"class": "WrongStateError", "code": 33, "message": "domain is shut off", "fields": {}}
        say("error", error=error)
        return 33
    if domain.startswith("silent-"):
        return 3
    if domain.startswith("crash-"):
        sys.stderr.write("Traceback\nlast words\n\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    say("step", step="commit")
    say("step", step="committed")
    say("result", result=result_of(request))
    return 0


if __name__ == "__main__":
    sys.exit(main())
