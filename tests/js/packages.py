"""The folders of npm packages, and commands in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients" / "js"
BUNDLE = ROOT / "service" / "rehydrate" / "api" / "client.js"
MODULES = PACKAGE / "node_modules"


def why_not():
    """Return why the package cannot be built here; None if it can."""
    if shutil.which("node") is None:
        return "Node.js is not installed"
    if not (MODULES / "vite" / "package.json").exists():
        return "the packages that build clients/js are not installed: npm ci in clients/js"
    return None


needs_node = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def run(*command, cwd=PACKAGE, **environment):
    """Run *command*; return what it prints."""
    ran = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **environment},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def tool(name):
    """Return the path of a development tool of the package."""
    return MODULES / ".bin" / name


def packed(folder):
    """Build the package as it is now, and pack it into *folder*; return the path of the tarball."""
    copy = folder / "package"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("node_modules", "dist"))
    (copy / "node_modules").symlink_to(MODULES)
    run(tool("vite"), "build", cwd=copy)
    run(tool("tsc"), "--project", "tsconfig.build.json", cwd=copy)
    run("npm", "pack", "--silent", "--pack-destination", folder, cwd=copy)
    (tarball,) = folder.glob("*.tgz")
    return tarball


def install(app):
    """Give *app* the packed package and what it works with, as npm would install them."""
    installed = app / "node_modules"
    (installed / "@rehydrate").mkdir(parents=True)
    for path in MODULES.iterdir():
        if not path.name.startswith("."):
            (installed / path.name).symlink_to(path)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(packed(Path(folder))) as tar:
        tar.extractall(installed / "@rehydrate", filter="data")
    (installed / "@rehydrate" / "package").rename(installed / "@rehydrate" / "client")
