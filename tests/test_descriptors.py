"""The limit of open descriptors is raised, and other limits derive from it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, sys
from rehydrate.descriptors import most_connections, raise_limit
soft, hard = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
before = most_connections()
raise_limit()
print(json.dumps([before, resource.getrlimit(resource.RLIMIT_NOFILE), most_connections()]))
"""


def limits(soft, hard):
    """Return the derived limit, the limits after the raise, and the derived limit then."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([soft, hard])],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return json.loads(ran.stdout)


def test_the_soft_limit_becomes_the_hard_one():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = min(hard, 4096) if hard != resource.RLIM_INFINITY else 4096
    assert limits(1024, hard) == [1024 - 256, [hard, hard], hard - 256]


@pytest.mark.parametrize("soft", [100, 256, 300])
def test_a_small_limit_leaves_a_few_connections(soft):
    before, _, _ = limits(soft, 4096)
    assert before == 64
