"""The command without the packages of the extra `embedded`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import localably


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("package", ["aiohttp", "msgpack"])
def test_a_missing_package_is_one_line_and_exit_code_2(package):
    ran = run(
        f"import sys; sys.modules[{package!r}] = None\n"
        "from localably.__main__ import main\nsys.exit(main(['--port', '0']))"
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert (
        ran.stderr == f"localably needs the package {package}: pip install 'rehydrate[embedded]'\n"
    )


def test_rehydrate_imports_neither_localably_nor_aiohttp():
    ran = run(
        "import sys; sys.modules['aiohttp'] = None\n"
        "from rehydrate import History\nimport rehydrate.cli.main\n"
        "sys.exit('localably' in sys.modules)"
    )
    assert ran.returncode == 0, ran.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        localably.nothing  # noqa: B018 - the access is the test
