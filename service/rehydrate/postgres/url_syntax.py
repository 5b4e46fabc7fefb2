"""What a database URL says, in libpq's own syntax: parts and keys, nothing yet of a driver."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

# Every key that libpq knows and we take, with the variable that stands in for it.
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
    """A database URL that cannot be used; names the part that is wrong and never a secret."""


def parsed(url: str) -> dict[str, str]:
    """Return libpq's keys and what *url* says of them, and of nothing else.

    Raises:
        DatabaseUrlError: it cannot be read, or has a key that libpq does not know.
    """
    url = url.strip()
    if match := re.match(r"postgres(?:ql)?(?:\+\w+)?://", url):
        pairs = _parse_uri(url[match.end() :])
    elif "://" in url.split("=")[0]:
        raise DatabaseUrlError("the database URL must begin with postgresql:// or postgres://")
    else:
        pairs = _parse_keywords(url)
    asked: dict[str, str] = {}
    for key, value in pairs:
        if key == "ssl" and value == "true":  # libpq takes this of JDBC's
            asked["sslmode"] = "require"
        elif key in KEYS or key == "user":
            asked[key] = value
        else:
            raise DatabaseUrlError(f"the database URL has an unknown key: {key[:60]!r}")
    return asked


def _parse_uri(rest: str) -> Iterator[tuple[str, str]]:
    """Read what follows the scheme, as libpq does: the first `@` ends the login."""
    before_query, _, query = rest.partition("?")
    authority, _, database = before_query.partition("/")
    if "@" in authority:
        login, _, authority = authority.partition("@")
        user, _, password = login.partition(":")
        yield from _given(user=_decoded(user), password=_decoded(password))
    hosts, ports = [], []
    for place in authority.split(","):
        match = re.fullmatch(r"(\[[^\]]+\]|[^:]*)(?::(\d*))?", place)
        if match is None:
            raise DatabaseUrlError("a host of the database URL cannot be read: host:port is wanted")
        hosts.append(_decoded(match[1].strip("[]")))
        ports.append(match[2] or "")
    yield from _given(host=",".join(hosts) if any(hosts) else "")
    yield from _given(port=",".join(ports) if any(ports) else "", dbname=_decoded(database))
    for parameter in query.split("&") if query else ():
        key, equals, value = parameter.partition("=")
        if not equals:
            raise DatabaseUrlError(f"a parameter of the database URL has no value: {key[:60]!r}")
        yield _decoded(key), _decoded(value)


def _parse_keywords(text: str) -> Iterator[tuple[str, str]]:
    """Read `key = value` pairs; a value with blanks stands in quotes, a backslash escapes."""
    pair = re.compile(
        r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)", re.DOTALL
    )
    at = 0
    while text[at:].strip():
        match = pair.match(text, at)
        if match is None:
            known = re.match(r"\s*(\w+)\s*=", text[at:])
            where = f"at {known[1]!r}" if known else "where key=value was expected"
            raise DatabaseUrlError(f"the database connection string cannot be read {where}")
        value = match[3] if match[2] is None else match[2]
        yield match[1], re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        at = match.end()


def _given(**pairs: str) -> Iterator[tuple[str, str]]:
    yield from ((key, value) for key, value in pairs.items() if value)


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        raise DatabaseUrlError("the database URL has a % that is no percent-encoding: write %25")
    return unquote(text)


def with_defaults(asked: Mapping[str, str]) -> dict[str, str]:
    """Fill in what *asked* leaves open, from its service file, then from the environment.

    Raises:
        DatabaseUrlError: the service is not to be found, or its file has an unknown key.
    """
    environment = {key: os.environ.get(name or "", "") for key, name in KEYS.items()}
    environment["user"] = os.environ.get("PGUSER", "")
    service = asked.get("service") or environment["service"]
    served = _of_service(service, asked.get("servicefile") or environment["servicefile"])
    return {
        key: value
        for key in (*KEYS, "user")
        if (value := asked.get(key) or served.get(key) or environment[key])
    }


def _of_service(service: str, file: str) -> dict[str, str]:
    if not service:
        return {}
    folder = os.environ.get("PGSYSCONFDIR", "/etc/postgresql-common")
    own = Path(file).expanduser() if file else Path("~/.pg_service.conf").expanduser()
    for path in (own, Path(folder) / "pg_service.conf"):
        parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
        try:
            parser.read(path)
        except configparser.Error:
            raise DatabaseUrlError(f"the service file {path} cannot be read") from None
        if parser.has_section(service):
            found = dict(parser[service])
            unknown = [key for key in found if key not in KEYS and key != "user"]
            if unknown:
                raise DatabaseUrlError(f"{path} has an unknown key: {unknown[0]!r}")
            return found
    raise DatabaseUrlError(f"the service {service!r} stands in no service file ({own})")
