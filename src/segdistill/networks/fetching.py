"""Fetching published weights without waiting minutes where there is no network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

TIMEOUT = 5.0
"""Seconds to wait for a connection, and for each answer over it."""


@contextmanager
def impatient() -> Iterator[None]:
    """Inside, what cannot be fetched fails within seconds, not after minutes of retries; what is cached still loads.

    The hub's own library tries again and again for more than a minute. Where its host cannot be reached, it is told
    that it is offline.
    """
    from huggingface_hub import constants

    before, timeout = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        socket.setdefaulttimeout(timeout)


def _reachable(address: str) -> bool:
    """Whether a connection to a host, or to the proxy that leads there, can be made."""
    proxy = next((os.environ[name] for name in ("https_proxy", "HTTPS_PROXY") if os.environ.get(name)), None)
    parts = urlsplit(proxy or address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), TIMEOUT).close()
    except OSError:
        return False
    return True
