"""Code of another version than the tested one, and processes that run it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")

EXPAND = """
import sqlalchemy as sa
from alembic import op

revision = "9001_expand"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("messages", sa.Column("mood", sa.Text))
    op.add_column("conversations", sa.Column("weight", sa.Integer, nullable=False, server_default="1"))
    op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))
    op.create_index("ix_messages_mood", "messages", ["conversation_id", "mood"])


def downgrade():
    raise NotImplementedError
"""

CONTRACT = """
import sqlalchemy as sa
from alembic import op

revision = "9002_contract"
down_revision = "9001_expand"
branch_labels = None
depends_on = None
floor = "9001_expand"


def upgrade():
    op.execute(sa.text("UPDATE schema_floor SET revision = :floor").bindparams(floor=floor))
    op.drop_column("conversations", "metadata")


def downgrade():
    raise NotImplementedError
"""


def newer(folder, head, *migrations):
    """Copy the code to *folder* as a later version with *migrations* after *head*.

    The copy writes a column and an attribute that the current code does not have.
    """
    shutil.copytree(ROOT / "service", folder / "service", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(ROOT / "migrations", folder / "migrations")
    for number, body in enumerate(migrations):
        name = f"2099-01-0{number + 1}-0000_later.py"
        (folder / "migrations/versions" / name).write_text(body.format(head=head))
    if migrations:
        _rewrite(
            folder,
            "postgres/statements.py",
            "facts, wire, tape\n    ) VALUES",
            "facts, wire, tape, mood\n    ) VALUES",
        )
        _rewrite(folder, "postgres/statements.py", "$12, $13)\n", "$12, $13, 'new')\n")
        _rewrite(
            folder,
            "postgres/message_rows.py",
            '        changed["cells"] = []\n',
            '        changed["cells"] = []\n    changed["mood"] = "new"\n',
        )
    return folder


def _rewrite(folder, path, old, new):
    file = folder / "service/rehydrate" / path
    text = file.read_text()
    assert text.count(old) == 1, (path, old)
    file.write_text(text.replace(old, new))


def before_the_newest_migration(folder):
    """Extract the code before the newest migration from the history of this checkout.

    Returns None if there is no history, or if it does not reach back that far.
    """
    added = b""
    for path in sorted((ROOT / "migrations/versions").glob("*.py"), reverse=True):
        added = _git("log", "--diff-filter=A", "--format=%H", "--", str(path.relative_to(ROOT)))
        if added:  # a migration that is not committed yet is skipped
            break
    packed = added and _git("archive", f"{added.decode().split()[-1]}^", "service", "migrations")
    if not packed:
        return None
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _git(*arguments):
    try:
        ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return ran.stdout if ran.returncode == 0 else b""


class Worker:
    """A process that runs the code in *folder*; see `worker`."""

    def __init__(self, folder, environment):
        self._environment = environment_of(folder, environment)
        self._others = []

    async def __aenter__(self):
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(WORKER),
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=2**22,
        )
        await self.fields("ready")
        return self

    async def __aexit__(self, *_):
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def ask(self, *said):
        self._process.stdin.write(json.dumps(said).encode() + b"\n")

    async def fields(self, key, value=None):
        """Return the next line with *key* (and *value*, if given); keep the others for later."""

        def fits(line):
            return key in line and value in (None, line[key])

        async with asyncio.timeout(PATIENCE_S):
            while True:
                for line in self._others:
                    if fits(line):
                        self._others.remove(line)
                        return line
                line = await self._process.stdout.readline()
                assert line, "the process ended"
                self._others.append(json.loads(line))

    async def look(self, conversation_id):
        self.ask("look", conversation_id)
        return await self.fields("shown")

    def kill(self):
        self._process.kill()


def environment_of(folder, environment):
    return {
        **os.environ,
        **environment,
        "PYTHONPATH": str(folder / "service"),
        "PYTHONSAFEPATH": "1",
    }


async def run(folder, environment, *arguments):
    """Run a command of the code in *folder*; return its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "rehydrate", *arguments),
        env=environment_of(folder, environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_S):
        said, _ = await process.communicate()
    return process.returncode, said.decode()
