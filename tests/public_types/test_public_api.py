"""The public API has the types that `public_api.py` states, for mypy and for pyright."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STATED = Path(__file__).parent / "public_api.py"
PYRIGHT = ROOT / "tests" / "js" / "node_modules" / ".bin" / "pyright"


def run(*command):
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_mypy_accepts_the_stated_types():
    ran = run(sys.executable, "-m", "mypy", "--no-error-summary", str(STATED))
    assert (ran.stdout, ran.returncode) == ("", 0)


@pytest.mark.slow
@pytest.mark.skipif(not PYRIGHT.exists(), reason="pyright is not installed in tests/js")
def test_pyright_accepts_the_stated_types(tmp_path):
    settings = {
        "include": [str(STATED)],
        "extraPaths": [str(ROOT / "service")],
        "pythonVersion": "3.11",
        "reportUnnecessaryTypeIgnoreComment": True,
        "enableTypeIgnoreComments": False,
    }
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    ran = run(PYRIGHT, "--project", project, "--pythonpath", sys.executable, "--outputjson")
    found = json.loads(ran.stdout)["generalDiagnostics"]
    assert [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in found] == []
