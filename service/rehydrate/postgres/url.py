"""A database URL in any form that libpq takes, as the arguments that asyncpg takes.

The order of precedence is libpq's: what the URL says, then the service file, then the environment
(`PGHOST` …), then the driver's defaults. A key that the driver cannot honour is refused by name
when dropping it would weaken what was asked for, and ignored when it only tunes.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import asyncpg

from rehydrate.postgres.url_syntax import DatabaseUrlError, parsed, with_defaults

__all__ = ["DatabaseUrlError", "behind_pooler", "connect_arguments", "redacted"]

PROBE_TIMEOUT_S = 10.0
SECRET = ("password", "sslpassword")

# What the driver reads itself, out of a URL that holds nothing else.
TLS_KEYS = (
    *("sslmode", "sslnegotiation", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
)
# Values with which a key asks for nothing that the driver does not do anyway; others are refused.
HARMLESS: Mapping[str, tuple[str, ...]] = {
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
SESSIONS = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")


def connect_arguments(url: str) -> dict[str, Any]:
    """Return the keyword arguments of `asyncpg.connect` for *url*.

    Takes `postgres://`, `postgresql://` (also with SQLAlchemy's `+driver`), keyword/value strings,
    and the empty string, for which the environment says all.

    Raises:
        DatabaseUrlError: it cannot be read, or asks for what the driver cannot do.
    """
    asked = with_defaults(parsed(url))
    _refuse_unkept(asked)
    arguments: dict[str, Any] = {}
    arguments.update(_addresses(asked))
    for key, name in (
        ("dbname", "database"),
        *((same, same) for same in ("user", "password", "passfile", "krbsrvname", "gsslib")),
    ):
        if asked.get(key):
            arguments[name] = asked[key]
    if timeout_s := _number(asked, "connect_timeout"):
        arguments["timeout"] = float(timeout_s)
    if sessions := _one_of(asked, "target_session_attrs", SESSIONS):
        arguments["target_session_attrs"] = sessions
    program = asked.get("application_name") or asked.get("fallback_application_name")
    told = {"application_name": program, "options": asked.get("options")}
    if settings := {key: value for key, value in told.items() if value}:
        arguments["server_settings"] = settings
    return arguments | _tls(asked)


def redacted(url: str) -> str:
    """Return *url* as it may be logged: one form, the password as `***`; never raises."""
    try:
        asked = parsed(url)
    except DatabaseUrlError:
        return "(a database URL that cannot be read)"
    login = quote(asked.pop("user", ""), safe="")
    login += ":***" if asked.pop("password", None) else ""
    hosts = asked.pop("host", "").split(",")
    ports = asked.pop("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports + [""] * len(hosts)
    places = (_place(host, port) for host, port in zip(hosts, ports, strict=False))
    base = f"postgresql://{login}{'@' if login else ''}{','.join(places)}"
    base += f"/{quote(asked.pop('dbname', ''), safe='')}"
    rest = {key: "***" if key in SECRET else value for key, value in sorted(asked.items())}
    return f"{base}?{urlencode(rest, safe='/*', quote_via=quote)}" if rest else base


async def behind_pooler(arguments: Mapping[str, Any]) -> bool:
    """Whether a pooler such as PgBouncer answers at *arguments* (of `asyncpg.connect`).

    It does when the process that runs a statement is not the one that greeted us. Prepared
    statements are then to be turned off, and a statement that reads to be run in a transaction,
    because one that is parsed on one server may otherwise be executed on another.

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


def _refuse_unkept(asked: Mapping[str, str]) -> None:
    for key, harmless in HARMLESS.items():
        if key in asked and asked[key].lower() not in harmless:
            instead = f" (may be {', '.join(harmless)})" if harmless else ""
            raise DatabaseUrlError(f"{key} cannot be kept by the driver{instead}: leave it out")
    _one_of(asked, "sslmode", SSL_MODES)
    if "hostaddr" in asked and asked.get("sslmode") == "verify-full":
        raise DatabaseUrlError("hostaddr cannot be used with sslmode=verify-full: use host alone")


def _one_of(asked: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str | None:
    value = asked.get(key)
    if value is not None and value not in allowed:
        raise DatabaseUrlError(f"{key} must be one of {', '.join(allowed)}")
    return value


def _number(asked: Mapping[str, str], key: str) -> int:
    """Return a count that is 0 when absent or, as libpq has it, when negative."""
    try:
        return max(0, int(asked.get(key) or 0))
    except ValueError:
        raise DatabaseUrlError(f"{key} must be a whole number") from None


def _addresses(asked: Mapping[str, str]) -> dict[str, Any]:
    hosts = (asked.get("hostaddr") or asked.get("host") or "").split(",")
    ports = [
        _number({"port": port}, "port") or 5432 for port in asked.get("port", "5432").split(",")
    ]
    if len(ports) not in (1, len(hosts)):
        raise DatabaseUrlError(f"there are {len(hosts)} hosts and {len(ports)} ports")
    if hosts == [""]:  # the driver tries the usual sockets, then localhost
        return {"port": ports[0]} if "port" in asked else {}
    places = list(zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True))
    if _one_of(asked, "load_balance_hosts", ("disable", "random")) == "random":
        random.shuffle(places)
    names = [_socket_or_name(host) for host, _ in places]
    if len(places) == 1:
        return {"host": names[0], "port": places[0][1]}
    return {"host": names, "port": [port for _, port in places]}


def _socket_or_name(host: str) -> str:
    if host.startswith("@"):
        raise DatabaseUrlError("abstract unix sockets are not supported: use a path or a host")
    return host or "localhost"


def _place(host: str, port: str) -> str:
    shown = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{shown}:{port}" if port else shown


def _tls(asked: Mapping[str, str]) -> dict[str, Any]:
    tls = {key: asked[key] for key in TLS_KEYS if key in asked}
    binding = asked.get("channel_binding")
    if binding not in (None, "disable", "prefer", "require"):
        raise DatabaseUrlError("channel_binding must be one of disable, prefer, require")
    if binding == "require" and tls.get("sslmode") != "verify-full":
        # It proves that the server is no impostor. The driver lacks it; a certificate proves it too.
        tls = {"sslrootcert": "system", **tls, "sslmode": "verify-full"}
    if tls.get("sslrootcert") != "system":
        return {"dsn": f"postgresql://?{urlencode(tls, quote_via=quote)}"} if tls else {}
    if tls.get("sslmode", "verify-full") != "verify-full":
        raise DatabaseUrlError("sslrootcert=system needs sslmode=verify-full, as in libpq")
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
