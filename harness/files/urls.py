"""URLs that are written into files."""

from urllib.parse import urlsplit

from harness.errors import UserError


def public_url(url: str) -> str:
    """Return an endpoint's URL in its usual form; it holds no secrets, as it is written into files and messages.

    Raises:
        UserError: when it has a user, password, query or fragment, or is not the URL of a web server.
    """
    if secret := [mark for mark in "@?#" if mark in url]:
        raise UserError(
            f"the URL of an endpoint holds {secret[0]!r}: keys are read from OPENAI_API_KEY only, as URLs are "
            "written into files; write it like http://localhost:8000/v1"
        )
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url!r:.200} is not the URL of an endpoint: write it like http://localhost:8000/v1")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
