"""The capacity of the local channel server: deliveries, delay, idle connections, a flood, history.

The server is a separate process, pinned to one core; the load is another. Figures depend on the
machine; the targets are the project's own.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
KEY = "app.bench:" + "k" * 32


@contextmanager
def server(*arguments):
    """Run a server on one core; yield its port and process id."""
    command = [sys.executable, "-m", "localably", "--port", "0", "--key", KEY, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        yield port, process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load(kind, port, **given):
    """Start the load in a process of its own."""
    command = [
        sys.executable,
        str(HERE / "localably_load.py"),
        kind,
        str(port),
        KEY,
        json.dumps(given),
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def measured(kind, port, **given):
    out, _ = load(kind, port, **given).communicate(timeout=400)
    return json.loads(out)


def rss_mb(pid):
    """Return a process's resident memory in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def fan_out(publishes):
    rows = []
    for form in ("msgpack", "json"):
        with server() as (port, _):
            rate = measured("fan_out", port, publishes=publishes, form=form)
        rows.append((f"deliveries/s, 50 readers, {form}", rate, ">=", 60_000))
    return rows


def delay(seconds):
    with server() as (port, _):
        found = measured("delay", port, seconds=seconds)
    return [
        ("publish to delivery p50 ms at 5,000 deliveries/s", found["p50_ms"], "<=", 10),
        ("publish to delivery p99 ms at 5,000 deliveries/s", found["p99_ms"], "<=", 10),
    ]


def idle(connections):
    with server() as (port, pid):
        process = load("idle", port, connections=connections)
        process.stdout.readline()
        used = rss_mb(pid)
        process.communicate("\n", timeout=60)
    return [(f"MB with {connections} idle attached connections", used, "<=", 80)]


def flood(messages, retention_s):
    with server("--retention", str(retention_s)) as (port, pid):
        half = measured("flood", port, messages=messages // 2)
        before = rss_mb(pid)
        rate = measured("flood", port, messages=messages // 2)
        after = rss_mb(pid)
    grown = after - before
    return [
        (
            f"messages/s taken in, {messages} of them, retention {retention_s} s",
            min(half, rate),
            ">=",
            0,
        ),
        ("MB after the first half", before, ">=", 0),
        ("MB more after the second half", grown, "<=", before * 0.1),
    ]


def history(pages):
    """Time pages of 1,000 messages, which the server joins from bytes it has."""
    token = base64.b64encode(KEY.encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    with server() as (port, _):
        url = f"http://127.0.0.1:{port}/channels/history/messages"
        body = json.dumps([{"name": "token", "data": "x" * 20}] * 100).encode()
        for _ in range(10):
            urllib.request.urlopen(urllib.request.Request(url, body, headers)).read()
        times = []
        for _ in range(pages):
            began = time.perf_counter()
            request = urllib.request.Request(f"{url}?limit=1000", headers=headers)
            urllib.request.urlopen(request).read()
            times.append(time.perf_counter() - began)
    return [("ms for a history page of 1,000, median", sorted(times)[pages // 2] * 1000, "<=", 10)]


def main(argv=None):
    options = argparse.ArgumentParser(prog="localably", description=__doc__)
    options.add_argument("--quick", action="store_true", help="a tenth of the load")
    quick = options.parse_args(argv).quick
    rows = [
        *fan_out(800 if quick else 8000),
        *delay(1 if quick else 8),
        *idle(1000),
        *(flood(100_000, 0.2) if quick else flood(1_000_000, 2)),
        *history(20 if quick else 200),
    ]
    missed = 0
    for name, value, sign, target in rows:
        met = value >= target if sign == ">=" else value <= target
        missed += not met
        goal = f"{sign} {target:,.0f}" if target else ""
        print(f"{name:<58}{value:>12,.1f}  {goal:<10} {'' if met else 'MISSED'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
