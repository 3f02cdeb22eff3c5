"""Faults of the URLs of servers, told without the URL: it may hold a password."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

#: the URL schemes that redis-py understands
REDIS_SCHEMES = ("redis", "rediss", "unix")

_UNREADABLE = (
    "is no readable URL: in its user and password, write / as %2F, @ as %40, : as %3A, # as %23 "
    "and ? as %3F; a port is a number"
)


def url_fault(url: str, schemes: Sequence[str] = ()) -> str | None:
    """Return what is wrong with a server's URL, if anything; any of `schemes` is right, if given.

    A password with a slash ends the part of a URL that names the server. Without this, parsers
    take the password's beginning for a port, or connect to a host that the user's name names.
    """
    if "://" not in url:
        examples = " or ".join(f"{scheme}://" for scheme in schemes or ("redis", "amqp"))
        return f"has no scheme: it has to begin with {examples}"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return _UNREADABLE
    if schemes and parts.scheme not in schemes:
        return f"has to begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    astray = "@" in parts.path + parts.fragment or ("@" in parts.query and "@" not in parts.netloc)
    return _UNREADABLE if parts.netloc and astray else None


def urls_fault(urls: object) -> str | None:
    """Return what is wrong with the value of a setting that names one or more servers.

    A text without a scheme is taken as it is: Celery has names for some result backends.
    """
    several = urls if isinstance(urls, list | tuple) else [urls]
    each = (url for text in several if isinstance(text, str) for url in text.split(";"))
    return next((fault for url in each if "://" in url and (fault := url_fault(url))), None)
