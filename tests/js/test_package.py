"""The npm package: its own tests, its types, what it contains, how large it is, and /client.js."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
import tomllib

import pytest

from js.packages import BUNDLE, MODULES, PACKAGE, ROOT, needs_node, packed, run, tool

MOST_PACKED_BYTES = 40_000
MOST_BYTES = 11_264
"""Of the core and Ably, minified and compressed by gzip."""

ENTRIES = ("index", "ably", "sse", "react")
MINIFIED = """
import { rolldown } from 'rolldown';
import { readFileSync } from 'node:fs';
const built = await rolldown({ input: process.argv[2], external: ['ably', 'react'] });
const { output } = await built.generate({ format: 'esm', minify: true });
process.stdout.write(output.map(({ code }) => code).join(''));
"""


@pytest.fixture(scope="module")
def tarball(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def contents(tarball):
    with tarfile.open(tarball) as tar:
        return {
            name.removeprefix("package/"): tar.extractfile(name).read() for name in tar.getnames()
        }


@needs_node
def test_its_own_tests_pass():
    run(tool("vitest"), "run")


@needs_node
def test_its_types_are_strict_and_correct():
    options = json.loads((PACKAGE / "tsconfig.json").read_text())["compilerOptions"]
    assert options["strict"]
    run(tool("tsc"))


@needs_node
def test_the_module_that_the_service_sends_is_current(tmp_path):
    run(tool("vite"), "build", "--mode", "bundle", OUT=str(tmp_path))
    assert (tmp_path / "client.js").read_text() == BUNDLE.read_text(), "make client"


@needs_node
def test_it_contains_modules_with_types_and_nothing_else(contents):
    other = {"package.json", "LICENSE", "README.md"}
    modules = {name for name in contents if name not in other}
    assert other <= contents.keys()
    assert {f"dist/{name}{suffix}" for name in ENTRIES for suffix in (".js", ".d.ts")} <= modules
    assert all(re.fullmatch(r"dist/\w+(\.js|\.d\.ts)", name) for name in modules)


@needs_node
def test_it_is_small(tarball, contents, tmp_path, capsys):
    for name, body in contents.items():
        if name.endswith(".js"):
            (tmp_path / name.removeprefix("dist/")).write_bytes(body)
    (tmp_path / "entry.js").write_text("export * from './index.js'; export * from './ably.js';")
    (tmp_path / "node_modules").symlink_to(MODULES)
    (tmp_path / "minify.mjs").write_text(MINIFIED)
    code = run("node", "minify.mjs", "./entry.js", cwd=tmp_path)
    size = len(gzip.compress(code.encode(), 9))
    with capsys.disabled():
        print(f"\ncore and Ably: {size} bytes; packed: {tarball.stat().st_size} bytes")
    assert size <= MOST_BYTES
    assert tarball.stat().st_size <= MOST_PACKED_BYTES


def test_it_has_no_dependencies_and_the_version_of_the_service():
    manifest = json.loads((PACKAGE / "package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert manifest["version"] == project["version"]
    assert "dependencies" not in manifest
    assert manifest["sideEffects"] is False
    assert manifest["peerDependencies"].keys() == {"ably", "react"}
    assert all(peer["optional"] for peer in manifest["peerDependenciesMeta"].values())
    assert {entry.removeprefix("./dist/") for entry in manifest["exports"].values()} >= {
        f"{name}.js" for name in ENTRIES
    }


@pytest.mark.parametrize("folder", ["clients/js", "tests/js"])
def test_versions_are_exact_and_the_lock_file_has_no_addresses(folder):
    manifest = json.loads((ROOT / folder / "package.json").read_text())
    wanted = manifest.get("dependencies", {}) | manifest["devDependencies"]
    lock = json.loads((ROOT / folder / "package-lock.json").read_text())
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    installed = {name.rpartition("node_modules/")[2] for name in lock["packages"]}
    for name, package in lock["packages"].items():
        assert "resolved" not in package
        assert not name or package["integrity"]
        needed = package.get("dependencies", {}) | package.get("optionalDependencies", {})
        assert needed.keys() <= installed, "npm ci refuses a lock file that lacks a package"
    for name, version in wanted.items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
