"""Stock ably-js in Node: one process per scenario of `js/scenarios.cjs`."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from waiting import PATIENCE_S

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "js"


def ably_js() -> Path:
    """Return the folder with stock ably-js, fetched once by npm; skip where that is not possible."""
    modules = PACKAGE / "node_modules"
    package = json.loads((PACKAGE / "package.json").read_text())
    wanted = {**package["dependencies"], **package["devDependencies"]}
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"stock ably-js needs {tool}, which is not installed")
    with (Path(tempfile.gettempdir()) / "rehydrate-npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all((modules / name / "package.json").exists() for name in wanted):
            command = ["npm", "ci", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=PACKAGE, check=True, timeout=110, capture_output=True)
    return modules


async def run_scenario(modules, server, name, *, binary, given):
    """Run one scenario and return what it saw."""
    arguments = [name, str(server.port), server.key, str(binary).lower(), json.dumps(given)]
    process = await asyncio.create_subprocess_exec(
        "node",
        str(HERE / "js" / "scenarios.cjs"),
        *arguments,
        env=os.environ | {"NODE_PATH": str(modules)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()[-2000:]
    assert out, f"the scenario ended without a result: {err.decode()[-2000:]}"
    return json.loads(out.splitlines()[-1])
