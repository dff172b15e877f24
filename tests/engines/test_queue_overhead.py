"""Our own cost per request: a guard against accidents (quadratic queues, a write per message, what is never freed)."""

import json
import subprocess
import sys
from pathlib import Path

from support.engines import child_environ

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "queue_overhead.py"


def test_ten_thousand_requests_cost_little_time_and_no_memory():
    command = [sys.executable, str(BENCHMARK), "--requests", "10000", "--lanes", "2"]
    done = subprocess.run(command, env=child_environ(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    # CPU seconds; the published bound is 50 microseconds, and a busy machine has been seen to double the figure.
    assert figures["us_per_request"] < 200
    assert figures["rss_growth_mb"] < 10 and figures["rss_peak_mb"] < 150
