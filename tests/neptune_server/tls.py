"""A certificate of the server's own, by an authority that nobody knows until a client is given its file."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

LOCAL_NAMES = ("127.0.0.1", "::1", "localhost")
AUTHORITY_FILE = "authority.pem"


def own_certificate(host: str, folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Make both, and write the authority's certificate into a file. The keys stay in memory."""
    authority = trustme.CA(organization_name="Local Neptune server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    names = dict.fromkeys([*LOCAL_NAMES, host])
    authority.issue_cert(*names).configure_cert(context)
    path = (folder / AUTHORITY_FILE).resolve()
    authority.cert_pem.write_to_path(path)
    return context, path
