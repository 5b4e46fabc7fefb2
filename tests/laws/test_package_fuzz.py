"""Channel messages in which any field has any value: the package for JavaScript shows what `View` shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from laws.fuzzing import drawn, in_python
from laws.test_client_js import CLIENT, HERE

CASES = int(os.environ.get("FUZZ_CASES", "2000"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_package_and_a_view_show_the_same_of_fuzzed_messages():
    cases = [drawn(seed) for seed in range(FIRST, FIRST + CASES)]
    lines = [json.dumps({"answer": case.answer, "messages": case.messages}) for case in cases]
    node = subprocess.run(
        ["node", HERE / "fuzz.mjs", CLIENT.as_uri()],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60 + CASES / 50,
        check=True,
    )
    by_package = [json.loads(line) for line in node.stdout.splitlines()]
    differing = [
        FIRST + index
        for index, (case, shown) in enumerate(zip(cases, by_package, strict=True))
        if shown != in_python(case)
    ]
    print(f"{CASES} cases, {len(differing)} differ")
    assert not differing, differing[:3]
