"""Channel messages in which any field has any value: the package for JavaScript shows what `View` shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections import deque

import pytest

from laws.fuzzing import drawn, in_python
from laws.test_client_js import CLIENT, HERE

CASES = int(os.environ.get("FUZZ_CASES", "2000"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
pytestmark = pytest.mark.timeout(300 + CASES // 20)


def by_package(cases):
    """Yield each of *cases* and what the package shows of it, from one Node process."""
    waiting = deque()
    command = ["node", HERE / "fuzz.mjs", CLIENT.as_uri()]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:

        def write():
            with node.stdin:
                for case in cases:
                    waiting.append(case)
                    node.stdin.write(json.dumps({"answer": case.answer, "messages": case.messages}))
                    node.stdin.write("\n")

        threading.Thread(target=write).start()
        for line in node.stdout:
            yield waiting.popleft(), json.loads(line)
    assert (node.returncode, len(waiting)) == (0, 0)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_package_and_a_view_show_the_same_of_fuzzed_messages():
    compared, differing = 0, []
    for seed, (case, shown) in enumerate(
        by_package(map(drawn, range(FIRST, FIRST + CASES))), FIRST
    ):
        compared += 1
        if shown != in_python(case):
            differing.append(seed)
    print(f"{compared} cases, {len(differing)} differ")
    assert compared == CASES
    assert not differing, differing[:3]
