"""Run the control plane's worker alone; settings come from the environment."""

import sys

from prometheus_client import CollectorRegistry

from tasks.config import load_settings
from tasks.control_worker import run_control_worker
from tasks.logs import configure_logging

if __name__ == "__main__":
    configure_logging()
    sys.exit(run_control_worker(load_settings(), registry=CollectorRegistry()))
