"""Parse libpq's connection URLs and keyword/value strings, service files and environment."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

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
