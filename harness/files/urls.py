"""URLs that are written into files."""

from urllib.parse import urlsplit

from harness.errors import UserError


def public_url(url: str) -> str:
    """An endpoint's URL, which has nothing secret in it: it is written into files and messages.

    Raises:
        UserError: when it has a user, a password, a query or a fragment, or is no URL of a web server.
    """
    if secret := [mark for mark in "@?#" if mark in url]:
        raise UserError(
            f"the URL of an endpoint has {secret[0]!r} in it: a key is read from OPENAI_API_KEY alone, as URLs are "
            "written into files; write it like http://localhost:8000/v1"
        )
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url!r:.200} is no URL of a judge's endpoint: write it like http://localhost:8000/v1")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
