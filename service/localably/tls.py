"""A self-signed certificate, so that SDKs can connect over TLS as they do in production."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Final

CERTIFICATE: Final = "localably-cert.pem"
_KEY: Final = "localably-key.pem"
_DAYS: Final = "825"  # clients of some systems reject certificates of longer validity
_TIMEOUT_S: Final = 60


def server_context(folder: Path) -> ssl.SSLContext:
    """Return the TLS context of a server on this machine; its certificate is in *folder*.

    The certificate is created once, by the `openssl` command, for `localhost` and 127.0.0.1. A
    client trusts it with `SSL_CERT_FILE` (Python) or `NODE_EXTRA_CA_CERTS` (Node).

    Raises:
        OSError: the folder cannot be used, or the certificate cannot be created or read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / CERTIFICATE, folder / _KEY
    if not (certificate.is_file() and key.is_file()):
        _create(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise OSError(f"{certificate} and its key cannot be used: {error.reason}") from error
    return context


def _create(certificate: Path, key: Path) -> None:
    key.touch(mode=0o600)
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", _DAYS, "-subj", "/CN=localably",
        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    try:
        made = subprocess.run(  # noqa: S603 - the command is fixed but for two paths
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise OSError("TLS needs the openssl command, to create a certificate") from error
    except subprocess.TimeoutExpired as error:
        raise OSError("openssl did not create a certificate in time") from error
    if made.returncode:
        key.unlink(missing_ok=True)
        raise OSError(f"openssl could not create a certificate: {made.stderr.strip()[-200:]}")
