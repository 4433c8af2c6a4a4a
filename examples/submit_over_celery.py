"""Ask a fleet for saves from a program that has Celery, an operator's key, and no catalog.

    URL=redis://operator-alice:PASSWORD@control.example:6379/0
    python examples/submit_over_celery.py $URL alice-2026.key save 'web-*' '!web-canary'

It prints the id under which the jobs are found: fleetsave jobs list --run ID, on the control host.
"""

import sys
from pathlib import Path

from celery import Celery

from tasks.client import make_submission, read_signing_key, send_submission


def main() -> None:
    """Send one submission and print its id."""
    broker, key_file, operation, *select = sys.argv[1:]
    # Any application will do; only its broker has to be the fleet's Redis.
    app = Celery("my-own-program", broker=broker)
    key = read_signing_key(Path(key_file))
    submission = make_submission(key, op=operation, select=select)
    print(send_submission(app, submission, key))


if __name__ == "__main__":
    main()
