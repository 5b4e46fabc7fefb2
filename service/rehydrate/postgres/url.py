"""Translate a database URL in any form that libpq accepts into arguments of asyncpg.

URLs, keyword/value strings, service files and the environment are parsed as libpq parses them. The
precedence is libpq's: the URL, then the service file, then the environment (`PGHOST` …), then
the driver's defaults. A key that the driver does not support is an error if ignoring it would
weaken a requirement (such as authentication), and is ignored if it only tunes the connection.
"""

from __future__ import annotations

import configparser
import os
import random
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

import asyncpg

__all__ = ["DatabaseUrlError", "behind_pooler", "connect_arguments", "redacted"]

PROBE_TIMEOUT_S = 10.0
SECRET = ("password", "sslpassword")

# Keys that are passed to the driver as a URL of their own, since it parses them itself.
TLS_KEYS = (
    *("sslmode", "sslnegotiation", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
)
# Keys that the driver does not support, with the values that require nothing of it.
NO_OP_VALUES: Mapping[str, tuple[str, ...]] = {
    "client_encoding": ("auto", "utf8", "utf-8", "unicode"),
    "gssdelegation": ("0",),
    "gssencmode": ("disable", "prefer"),
    "min_protocol_version": ("3.0",),
    "replication": ("false", "off", "no", "0"),
    "require_auth": (),
    "requirepeer": (),
    "sslcertmode": ("allow",),
    "sslcrldir": (),
    "sslsni": ("1",),
}
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRS = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")


def connect_arguments(url: str) -> dict[str, Any]:
    """Return the keyword arguments of `asyncpg.connect` for *url*.

    Accepts `postgres://`, `postgresql://` (also with SQLAlchemy's `+driver`), keyword/value
    strings, and the empty string, for which everything comes from the environment.

    Raises:
        DatabaseUrlError: *url* cannot be parsed, or requires something that the driver does not
            support.
    """
    parameters = with_defaults(parse_url(url))
    _reject_unsupported(parameters)
    arguments: dict[str, Any] = {}
    arguments.update(_addresses(parameters))
    for key, name in (
        ("dbname", "database"),
        *((same, same) for same in ("user", "password", "passfile", "krbsrvname", "gsslib")),
    ):
        if parameters.get(key):
            arguments[name] = parameters[key]
    if timeout_s := _number(parameters, "connect_timeout"):
        arguments["timeout"] = float(timeout_s)
    if sessions := _one_of(parameters, "target_session_attrs", SESSION_ATTRS):
        arguments["target_session_attrs"] = sessions
    program = parameters.get("application_name") or parameters.get("fallback_application_name")
    startup = {"application_name": program, "options": parameters.get("options")}
    if settings := {key: value for key, value in startup.items() if value}:
        arguments["server_settings"] = settings
    return arguments | _tls(parameters)


def redacted(url: str) -> str:
    """Return *url* for logs, in URL form with secrets as `***`; never raises."""
    try:
        parameters = parse_url(url)
    except DatabaseUrlError:
        return "(an invalid database URL)"
    login = quote(parameters.pop("user", ""), safe="")
    login += ":***" if parameters.pop("password", None) else ""
    hosts = parameters.pop("host", "").split(",")
    ports = parameters.pop("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports + [""] * len(hosts)
    places = (_host_and_port(host, port) for host, port in zip(hosts, ports, strict=False))
    base = f"postgresql://{login}{'@' if login else ''}{','.join(places)}"
    base += f"/{quote(parameters.pop('dbname', ''), safe='')}"
    rest = {key: "***" if key in SECRET else value for key, value in sorted(parameters.items())}
    return f"{base}?{urlencode(rest, safe='/*', quote_via=quote)}" if rest else base


async def behind_pooler(arguments: Mapping[str, Any]) -> bool:
    """Return True if a pooler in transaction mode, such as PgBouncer, answers at *arguments*.

    It does if the backend process that runs a statement is not the one that completed the
    handshake. Prepared statements must then be off, and reads must run in transactions, because a
    statement could otherwise be parsed by one backend and executed by another.

    Args:
        arguments: those of `asyncpg.connect`.

    Raises:
        OSError, asyncpg.PostgresError: the database cannot be reached, as from `asyncpg.connect`.
    """
    limits = {"statement_cache_size": 0, "command_timeout": PROBE_TIMEOUT_S}
    connection = await asyncpg.connect(**{**arguments, **limits})
    try:
        async with connection.transaction():
            serving_pid = await connection.fetchval("select pg_backend_pid()")
        return bool(serving_pid != connection.get_server_pid())
    finally:
        await connection.close(timeout=PROBE_TIMEOUT_S)


def _reject_unsupported(parameters: Mapping[str, str]) -> None:
    for key, harmless in NO_OP_VALUES.items():
        if key in parameters and parameters[key].lower() not in harmless:
            instead = f" (allowed: {', '.join(harmless)})" if harmless else ""
            raise DatabaseUrlError(f"{key} is not supported by the driver{instead}: remove it")
    _one_of(parameters, "sslmode", SSL_MODES)
    if "hostaddr" in parameters and parameters.get("sslmode") == "verify-full":
        raise DatabaseUrlError("hostaddr cannot be used with sslmode=verify-full: use only host")


def _one_of(parameters: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str | None:
    value = parameters.get(key)
    if value is not None and value not in allowed:
        raise DatabaseUrlError(f"{key} must be one of {', '.join(allowed)}")
    return value


def _number(parameters: Mapping[str, str], key: str) -> int:
    """Return the integer value of *key*; 0 if it is absent or, as in libpq, negative."""
    try:
        return max(0, int(parameters.get(key) or 0))
    except ValueError:
        raise DatabaseUrlError(f"{key} must be an integer") from None


def _addresses(parameters: Mapping[str, str]) -> dict[str, Any]:
    hosts = (parameters.get("hostaddr") or parameters.get("host") or "").split(",")
    ports = [
        _number({"port": port}, "port") or 5432
        for port in parameters.get("port", "5432").split(",")
    ]
    if len(ports) not in (1, len(hosts)):
        raise DatabaseUrlError(f"{len(hosts)} hosts and {len(ports)} ports do not match")
    if hosts == [""]:  # the driver tries the usual sockets, then localhost
        return {"port": ports[0]} if "port" in parameters else {}
    places = list(zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True))
    if _one_of(parameters, "load_balance_hosts", ("disable", "random")) == "random":
        random.shuffle(places)
    names = [_socket_or_name(host) for host, _ in places]
    if len(places) == 1:
        return {"host": names[0], "port": places[0][1]}
    return {"host": names, "port": [port for _, port in places]}


def _socket_or_name(host: str) -> str:
    if host.startswith("@"):
        raise DatabaseUrlError("abstract unix sockets are not supported: use a path or a host")
    return host or "localhost"


def _host_and_port(host: str, port: str) -> str:
    shown = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{shown}:{port}" if port else shown


def _tls(parameters: Mapping[str, str]) -> dict[str, Any]:
    tls = {key: parameters[key] for key in TLS_KEYS if key in parameters}
    binding = parameters.get("channel_binding")
    if binding not in (None, "disable", "prefer", "require"):
        raise DatabaseUrlError("channel_binding must be one of disable, prefer, require")
    if binding == "require" and tls.get("sslmode") != "verify-full":
        # Channel binding proves the server's identity. The driver does not support it, but a
        # verified certificate proves the same.
        tls = {"sslrootcert": "system", **tls, "sslmode": "verify-full"}
    if tls.get("sslrootcert") != "system":
        return {"dsn": f"postgresql://?{urlencode(tls, quote_via=quote)}"} if tls else {}
    if tls.get("sslmode", "verify-full") != "verify-full":
        raise DatabaseUrlError("sslrootcert=system requires sslmode=verify-full, as in libpq")
    arguments: dict[str, Any] = {"ssl": _system_context(tls)}
    if tls.get("sslnegotiation") == "direct":
        arguments["direct_tls"] = True
    return arguments


def _system_context(tls: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    password: Callable[[], str] = lambda: tls.get("sslpassword", "")  # noqa: E731 - one use
    try:
        if "sslcert" in tls:
            context.load_cert_chain(tls["sslcert"], tls.get("sslkey"), password)
        if "sslcrl" in tls:
            context.load_verify_locations(cafile=tls["sslcrl"])
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    except OSError as error:
        raise DatabaseUrlError(f"sslcert, sslkey or sslcrl cannot be read: {error}") from error
    for key, end in (
        ("ssl_min_protocol_version", "minimum_version"),
        ("ssl_max_protocol_version", "maximum_version"),
    ):
        if key in tls:
            setattr(context, end, _tls_version(tls[key], key))
    return context


def _tls_version(text: str, key: str) -> ssl.TLSVersion:
    try:
        return ssl.TLSVersion[text.replace(".", "_")]
    except KeyError:
        raise DatabaseUrlError(f"{key} must be one of TLSv1.2, TLSv1.3") from None


# The accepted keys of libpq, each with the environment variable that is its default.
KEYS: Mapping[str, str | None] = {
    "application_name": "PGAPPNAME",
    "channel_binding": "PGCHANNELBINDING",
    "client_encoding": "PGCLIENTENCODING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "dbname": "PGDATABASE",
    "fallback_application_name": None,
    "gssdelegation": "PGGSSDELEGATION",
    "gssencmode": "PGGSSENCMODE",
    "gsslib": "PGGSSLIB",
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "keepalives": None,
    "keepalives_count": None,
    "keepalives_idle": None,
    "keepalives_interval": None,
    "krbsrvname": "PGKRBSRVNAME",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
    "max_protocol_version": "PGMAXPROTOCOLVERSION",
    "min_protocol_version": "PGMINPROTOCOLVERSION",
    "options": "PGOPTIONS",
    "passfile": "PGPASSFILE",
    "password": "PGPASSWORD",
    "port": "PGPORT",
    "replication": None,
    "require_auth": "PGREQUIREAUTH",
    "requirepeer": "PGREQUIREPEER",
    "service": "PGSERVICE",
    "servicefile": "PGSERVICEFILE",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "sslcert": "PGSSLCERT",
    "sslcertmode": "PGSSLCERTMODE",
    "sslcompression": "PGSSLCOMPRESSION",
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "sslkey": "PGSSLKEY",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslpassword": None,
    "sslrootcert": "PGSSLROOTCERT",
    "sslsni": "PGSSLSNI",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "tcp_user_timeout": None,
}


class DatabaseUrlError(ValueError):
    """The database URL cannot be used. The message names the wrong part and never a secret."""


def parse_url(url: str) -> dict[str, str]:
    """Return the keys and values in *url*, without any defaults.

    Raises:
        DatabaseUrlError: *url* cannot be parsed, or has a key that libpq does not know.
    """
    url = url.strip()
    if match := re.match(r"postgres(?:ql)?(?:\+\w+)?://", url):
        pairs = _parse_uri(url[match.end() :])
    elif "://" in url.split("=")[0]:
        raise DatabaseUrlError("the database URL must begin with postgresql:// or postgres://")
    else:
        pairs = _parse_keywords(url)
    parameters: dict[str, str] = {}
    for key, value in pairs:
        if key == "ssl" and value == "true":  # libpq accepts this for compatibility with JDBC
            parameters["sslmode"] = "require"
        elif key in KEYS or key == "user":
            parameters[key] = value
        else:
            raise DatabaseUrlError(f"the database URL has an unknown key: {key[:60]!r}")
    return parameters


def _parse_uri(rest: str) -> Iterator[tuple[str, str]]:
    """Parse the part after the scheme, as libpq does: the first `@` ends the login."""
    before_query, _, query = rest.partition("?")
    authority, _, database = before_query.partition("/")
    if "@" in authority:
        login, _, authority = authority.partition("@")
        user, _, password = login.partition(":")
        yield from _nonempty(user=_percent_decoded(user), password=_percent_decoded(password))
    hosts, ports = [], []
    for place in authority.split(","):
        match = re.fullmatch(r"(\[[^\]]+\]|[^:]*)(?::(\d*))?", place)
        if match is None:
            raise DatabaseUrlError("a host in the database URL cannot be parsed: use host:port")
        hosts.append(_percent_decoded(match[1].strip("[]")))
        ports.append(match[2] or "")
    yield from _nonempty(host=",".join(hosts) if any(hosts) else "")
    yield from _nonempty(
        port=",".join(ports) if any(ports) else "", dbname=_percent_decoded(database)
    )
    for parameter in query.split("&") if query else ():
        key, equals, value = parameter.partition("=")
        if not equals:
            raise DatabaseUrlError(f"a parameter in the database URL has no value: {key[:60]!r}")
        yield _percent_decoded(key), _percent_decoded(value)


def _parse_keywords(text: str) -> Iterator[tuple[str, str]]:
    """Parse `key = value` pairs; values with spaces are quoted, a backslash escapes."""
    pair = re.compile(
        r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)", re.DOTALL
    )
    at = 0
    while text[at:].strip():
        match = pair.match(text, at)
        if match is None:
            key = re.match(r"\s*(\w+)\s*=", text[at:])
            where = f"at {key[1]!r}" if key else "where key=value was expected"
            raise DatabaseUrlError(f"the database connection string cannot be parsed {where}")
        value = match[3] if match[2] is None else match[2]
        yield match[1], re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        at = match.end()


def _nonempty(**pairs: str) -> Iterator[tuple[str, str]]:
    yield from ((key, value) for key, value in pairs.items() if value)


def _percent_decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        raise DatabaseUrlError("the database URL has an unencoded %: write it as %25")
    return unquote(text)


def with_defaults(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return *parameters* completed from the service file, then from the environment.

    Raises:
        DatabaseUrlError: the service is not found, or its file has an unknown key.
    """
    environment = {key: os.environ.get(name or "", "") for key, name in KEYS.items()}
    environment["user"] = os.environ.get("PGUSER", "")
    service = parameters.get("service") or environment["service"]
    served = _read_service(service, parameters.get("servicefile") or environment["servicefile"])
    return {
        key: value
        for key in (*KEYS, "user")
        if (value := parameters.get(key) or served.get(key) or environment[key])
    }


def _read_service(service: str, file: str) -> dict[str, str]:
    if not service:
        return {}
    folder = os.environ.get("PGSYSCONFDIR", "/etc/postgresql-common")
    own = Path(file).expanduser() if file else Path("~/.pg_service.conf").expanduser()
    for path in (own, Path(folder) / "pg_service.conf"):
        parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
        try:
            parser.read(path)
        except configparser.Error:
            raise DatabaseUrlError(f"the service file {path} cannot be parsed") from None
        if parser.has_section(service):
            found = dict(parser[service])
            unknown = [key for key in found if key not in KEYS and key != "user"]
            if unknown:
                raise DatabaseUrlError(f"{path} has an unknown key: {unknown[0]!r}")
            return found
    raise DatabaseUrlError(f"the service {service!r} is not defined in {own} or in {folder}")
