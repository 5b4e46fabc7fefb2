"""Every form of a database URL connects to a real server; invalid ones are rejected."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from rehydrate.embedded.binaries import identity, run_as
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.postgres.url import DatabaseUrlError, behind_pooler, connect_arguments, redacted
from waiting import PATIENCE_S


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, EmbeddedPostgres(Path(folder)) as pg:
        yield pg


@pytest.fixture(autouse=True)
def no_environment(monkeypatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


class Parts:
    """The parts of a running server's URL."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.password = (server.folder / "password").read_text()
        self.port = int(server.url.rpartition(":")[2].partition("/")[0])
        self.sockets = server.folder / "data"


@pytest.fixture
def parts(server: EmbeddedPostgres) -> Parts:
    return Parts(server)


async def shown(url: str, name: str = "application_name") -> str:
    connection = await asyncpg.connect(**connect_arguments(url))
    try:
        return await connection.fetchval(f"show {name}")
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://postgres:{password}@127.0.0.1:{port}/postgres?application_name=a",
        "postgres://postgres:{password}@localhost:{port}/postgres?application_name=a",
        "postgresql+asyncpg://postgres:{password}@127.0.0.1:{port}/postgres?application_name=a",
        "postgresql://postgres:{password}@/postgres?host={sockets}&port={port}&application_name=a",
        "postgresql://postgres:{password}@{quoted}:{port}/postgres?application_name=a",
        (
            "postgresql:///postgres?host={sockets}&port={port}&user=postgres&password={password}"
            "&application_name=a"
        ),
        "postgresql://postgres:{password}@127.0.0.1:1,127.0.0.1:{port}/postgres?application_name=a",
        "postgresql://postgres:{password}@127.0.0.1,127.0.0.1:{port}/postgres?application_name=a",
        "postgresql://postgres:{password}@127.0.0.1:{port}?dbname=postgres&application_name=a",
        (
            "postgresql://postgres:{password}@nowhere.invalid:{port}/postgres"
            "?hostaddr=127.0.0.1&application_name=a"
        ),
        (
            "host=127.0.0.1 port={port} user=postgres password={password} dbname=postgres "
            "application_name=a"
        ),
        (
            "host='{sockets}' port = {port} user=postgres password='{password}' dbname=postgres"
            " application_name='a'"
        ),
        (
            "postgresql://postgres:{password}@127.0.0.1:{port}/postgres?sslmode=disable"
            "&application_name=a"
        ),
        (
            "postgresql://postgres:{password}@127.0.0.1:{port}/postgres?sslmode=prefer"
            "&application_name=a&target_session_attrs=read-write&connect_timeout=5"
            "&keepalives=1&keepalives_idle=30&tcp_user_timeout=1000&gssencmode=disable"
            "&channel_binding=prefer&client_encoding=UTF8&load_balance_hosts=random"
        ),
        "postgresql://postgres:{password}@127.0.0.1:{port}/postgres?fallback_application_name=a",
        (
            "postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
            "?options=-c%20application_name%3Da"
        ),
    ],
)
async def test_every_url_form_of_libpq_connects(form: str, parts: Parts) -> None:
    url = form.format(quoted=quote(str(parts.sockets), safe=""), **vars(parts))
    assert await shown(url) == "a"
    assert parts.password not in redacted(url)


async def test_options_may_contain_several_settings(parts: Parts) -> None:
    base = f"postgresql://postgres:{parts.password}@127.0.0.1:{parts.port}/postgres"
    url = f"{base}?options=-c%20geqo%3Doff%20--statement_timeout%3D1234"
    assert await shown(url, "geqo") == "off"
    assert await shown(url, "statement_timeout") == "1234ms"


async def test_an_empty_url_uses_the_environment(parts: Parts, monkeypatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(parts.port))
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PGPASSWORD", parts.password)
    monkeypatch.setenv("PGDATABASE", "postgres")
    monkeypatch.setenv("PGAPPNAME", "from the environment")
    monkeypatch.setenv("PGOPTIONS", "-c geqo=off")
    assert await shown("") == "from the environment"
    assert await shown("postgresql://", "geqo") == "off"


async def test_the_url_takes_precedence_over_the_service_and_the_environment(
    parts: Parts, monkeypatch, tmp_path: Path
) -> None:
    services = tmp_path / "services.conf"
    services.write_text(
        f"[ours]\nhost=127.0.0.1\nport={parts.port}\nuser=postgres\ndbname=postgres\n"
        f"password={parts.password}\napplication_name=100%served\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGAPPNAME", "environment")
    assert await shown("service=ours") == "100%served"
    assert await shown("postgresql://?service=ours&application_name=url") == "url"
    monkeypatch.setenv("PGSERVICE", "ours")
    assert await shown("postgresql://") == "100%served"


async def test_the_password_can_be_read_from_a_passfile(parts: Parts, tmp_path: Path) -> None:
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"127.0.0.1:*:*:postgres:{parts.password}\n")
    passwords.chmod(0o600)
    url = f"postgresql://postgres@127.0.0.1:{parts.port}/postgres?passfile={passwords}"
    assert await shown(f"{url}&application_name=a") == "a"


def test_percent_encoded_logins_are_decoded() -> None:
    arguments = connect_arguments("postgresql://us%40er:p%3A%2F%40ss+w@h/d%20b")
    assert arguments == {
        "host": "h",
        "port": 5432,
        "user": "us@er",
        "password": "p:/@ss+w",
        "database": "d b",
    }


def test_keyword_values_are_unquoted() -> None:
    arguments = connect_arguments(r"host=h password='it\'s \\ here' user=a\ b dbname=''")
    assert arguments["password"] == r"it's \ here"
    assert arguments["user"] == "a b"
    assert "database" not in arguments


def test_ipv6_and_default_ports() -> None:
    arguments = connect_arguments("postgresql://[::1]:6543,b/db")
    assert arguments["host"] == ["::1", "b"]
    assert arguments["port"] == [6543, 5432]


def test_a_timeout_of_zero_leaves_the_drivers_default() -> None:
    assert "timeout" not in connect_arguments("postgresql://h/d?connect_timeout=0")
    assert connect_arguments("postgresql://h/d?connect_timeout=7")["timeout"] == 7.0


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://u:hush@h/d", "must begin with"),
        ("postgresql://u:hush@h/d?pgbouncer=true", "'pgbouncer'"),
        ("postgresql://u:hush@h/d?sslmode=sometimes", "sslmode must be one of"),
        ("postgresql://u:hush@h/d?target_session_attrs=best", "target_session_attrs must be"),
        ("postgresql://u:hush@h/d?connect_timeout=soon", "connect_timeout must be"),
        ("postgresql://u:hush@h/d?port=http", "port must be an integer"),
        ("postgresql://u:hush@h/d?sslmode", "has no value: 'sslmode'"),
        ("postgresql://u:hush@h:1,h:2,h:3/d?port=1,2", "3 hosts and 2 ports do not match"),
        ("postgresql://u:hu%sh@h/d", "write it as %25"),
        ("postgresql://u:hush@h:x/d", "use host:port"),
        ("postgresql://u:hush@h/d?gssencmode=require", "gssencmode is not supported"),
        ("postgresql://u:hush@h/d?require_auth=scram-sha-256", "require_auth is not supported"),
        ("postgresql://u:hush@h/d?client_encoding=latin1", "client_encoding is not supported"),
        ("postgresql://u:hush@h/d?channel_binding=maybe", "channel_binding must be"),
        (
            "postgresql://u:hush@h/d?sslrootcert=system&sslmode=require",
            "requires sslmode=verify-full",
        ),
        ("postgresql://u:hush@h/d?hostaddr=1.2.3.4&sslmode=verify-full", "use only host"),
        ("postgresql://u:hush@@abstract/d?host=%40x", "abstract unix sockets"),
        ("host=h password=hush colour=red", "'colour'"),
        ("host=h password='hush", "cannot be parsed at 'password'"),
        ("host=h hush", "key=value was expected"),
        ("service=nowhere password=hush", "'nowhere' is not defined in"),
    ],
)
def test_an_invalid_url_is_rejected_without_showing_secrets(url: str, expected: str) -> None:
    with pytest.raises(DatabaseUrlError) as caught:
        connect_arguments(url)
    assert expected in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "hush" not in redacted(url)


@pytest.mark.parametrize(
    ("url", "shown_as"),
    [
        ("postgres://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h", "postgresql://h/"),
        ("host=a,b port=1,2 user=u password=p", "postgresql://u:***@a:1,b:2/"),
        ("host=/run/x dbname=d sslpassword=p", "postgresql://%2Frun%2Fx/d?sslpassword=***"),
        ("postgresql://u@[::1]:5/d?sslmode=require", "postgresql://u@[::1]:5/d?sslmode=require"),
        ("nonsense", "(an invalid database URL)"),
    ],
)
def test_a_url_is_redacted(url: str, shown_as: str) -> None:
    assert redacted(url) == shown_as


def test_required_channel_binding_becomes_certificate_verification() -> None:
    neon = "postgresql://u:p@ep-1.example/d?sslmode=require&channel_binding=require"
    context = connect_arguments(neon)["ssl"]
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_system_roots_allow_direct_tls() -> None:
    arguments = connect_arguments(
        "postgresql://h/d?sslrootcert=system&sslnegotiation=direct&ssl_min_protocol_version=TLSv1.3"
    )
    assert arguments["direct_tls"]
    assert arguments["ssl"].minimum_version is ssl.TLSVersion.TLSv1_3


@pytest.fixture(scope="module")
def tls_server() -> Iterator[EmbeddedPostgres]:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places or not shutil.which("openssl"):
        pytest.skip("no PostgreSQL with TLS, or no openssl, on this system")
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        pg = EmbeddedPostgres(Path(name), bindir=places[-1])
        pg.start()
        pg.stop()
        data = pg.folder / "data"
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-nodes",
                "-newkey",
                "rsa:2048",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
                "-keyout",
                data / "server.key",
                "-out",
                data / "server.crt",
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        owner = data.stat()
        for file in ("server.key", "server.crt"):
            os.chown(data / file, owner.st_uid, owner.st_gid)
            (data / file).chmod(0o600)
        with (data / "postgresql.conf").open("a") as conf:
            conf.write("ssl = on\n")
        with pg:
            yield pg


@pytest.mark.parametrize(
    "options",
    ["sslmode=require", "sslmode=verify-ca&{root}", "sslmode=verify-full&{root}", "ssl=true"],
)
async def test_the_connection_is_encrypted(tls_server, options: str) -> None:
    parts = Parts(tls_server)
    root = f"sslrootcert={parts.sockets / 'server.crt'}"
    connection = await asyncpg.connect(
        **connect_arguments(
            f"postgresql://postgres:{parts.password}@localhost:{parts.port}/postgres?"
            + options.format(root=root)
        )
    )
    try:
        query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        assert await connection.fetchval(query)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "options",
    ["sslrootcert=system", "sslmode=require&channel_binding=require"],
)
async def test_an_unknown_certificate_is_rejected(tls_server, options: str) -> None:
    url = tls_server.url.replace("127.0.0.1", "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncpg.connect(**connect_arguments(f"{url}?{options}"))


async def test_a_certificate_with_another_name_is_rejected(tls_server) -> None:
    root = tls_server.folder / "data" / "server.crt"
    options = f"?sslmode=verify-full&sslrootcert={root}"
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncpg.connect(**connect_arguments(tls_server.url + options))


async def test_a_server_without_tls_is_rejected_if_tls_is_required(server) -> None:
    with pytest.raises((ConnectionError, asyncpg.PostgresError, OSError)):
        await asyncpg.connect(**connect_arguments(f"{server.url}?sslmode=require"))


@pytest.fixture
def pooler(parts: Parts) -> Iterator[int]:
    """Start PgBouncer in transaction mode in front of the server; return its port."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    with tempfile.TemporaryDirectory(prefix="pooler-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = folder / "pgbouncer.ini"
        users = folder / "users.txt"
        users.write_text(f'"postgres" "{parts.password}"\n')
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={parts.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        user = run_as(folder / "nothing")
        for file in (settings, users):
            file.chmod(0o600)
            if user is not None:
                os.chown(file, user.uid, user.gid)
        process = subprocess.Popen(
            [program, "-q", settings], stderr=subprocess.DEVNULL, cwd="/", **identity(user)
        )
        try:
            yield port
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


async def test_a_pooler_is_detected_and_a_server_is_not(
    pooler: int, server: EmbeddedPostgres, parts: Parts
) -> None:
    assert not await behind_pooler(connect_arguments(server.url))
    pooled = connect_arguments(server.url.replace(f":{parts.port}/", f":{pooler}/"))
    for _ in range(500):
        try:
            assert await behind_pooler(pooled)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
        else:
            return
    pytest.fail("the pooler did not answer")
