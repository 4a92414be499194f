"""Who may use the worker's server: a token where one is set, else nobody whom a stranger's page sends.

Health and metrics are open, for probes and scrapers. A browser's EventSource can't send a header, so the token is
exchanged for a cookie: by `/live?token=…`, or by the form that the page shows to who has neither.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import re
import time
from base64 import b64encode
from urllib.parse import urlsplit

from aiohttp import web

from worker.refusals import Handler, refuse

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
PAGE = "/live"
SIGN_IN = "/live/session"
COOKIE = "nametag_session"
SESSION_SECONDS = 12 * 3600
FORM_SECONDS = 10.0

_HOST = re.compile(r"(\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(:[0-9]{1,5})?")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_SECURITY_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_FORM_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1b1f27; --edge: #858d9b; --accent: #0b57a8; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12151b; --card: #1b2029; --ink: #e8eaf0; --edge: #717b8d; --accent: #8fc1ff; }
}
body { margin: 18vh auto 0; max-width: 20rem; padding: 0 1rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.35rem; }
p { margin: 0 0 1.5rem; }
form { display: grid; gap: .6rem; margin: 0 0 1.25rem; }
input, button { box-sizing: border-box; width: 100%; min-height: 2.75rem; padding: 0 .75rem;
  border: 1px solid var(--edge); border-radius: .5rem; background: var(--card); color: var(--ink); font: inherit; }
button { font-weight: 600; cursor: pointer; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
"""
_FORM = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nametag: sign in</title>
<style>{style}</style>
</head>
<body>
<h1>nametag</h1>
<p>{told}</p>
<form method="post" action="{action}">
<label for="token">Token (server.token)</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Sign in</button>
</form>
<p><a href="{page}">I have signed in already</a></p>
</body>
</html>
"""
# A hash lets this one style in, where a word of a stranger's would need another.
_FORM_POLICY = POLICY.replace(
    "style-src 'self'",
    f"style-src 'sha256-{b64encode(hashlib.sha256(_FORM_STYLE.encode()).digest()).decode()}'",
)


class Access:
    """Lets requests through or refuses them; `host` is where the server listens."""

    def __init__(self, token: str | None, host: str) -> None:
        self._token = None if token is None else token.encode()
        self._host = host.lower()

    def add_to(self, app: web.Application) -> None:
        """Guard all that the application answers."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        app.middlewares.append(guard)
        app.on_response_prepare.append(_secure)
        if self._token is not None:
            app.router.add_post(SIGN_IN, self._sign_in)

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN_PATHS:
            return await handler(request)
        if _is_from_elsewhere(request):
            return refuse(403, "another site's page must not use this server")
        if self._token is None:
            # Else a page of a stranger's could have its name lead here, and read all.
            if not self._is_own_name(request.headers.get("Host", "")):
                return refuse(403, "this server isn't known under that host name; set server.token to use another")
            return await handler(request)
        is_page = request.path == PAGE and request.method == "GET"
        if is_page and "token" in request.query:
            # Also of who is signed in already: it must not stay in the address.
            return self._exchange(request.query["token"])
        if request.path == SIGN_IN or self._is_signed_in(request):
            return await handler(request)
        if is_page:
            return _form("This worker's page needs its token.")
        return refuse(401, "a token is needed: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})

    def _is_own_name(self, host_header: str) -> bool:
        # Of a user's name, a path or the like before or after it, a lenient parser would make one of ours.
        told = _HOST.fullmatch(host_header)
        if told is None:
            return False
        name = (told["address"] or told["name"]).lower()
        # Behind an address stands no name that could lead elsewhere a moment later.
        return name in ("localhost", self._host) or _is_address(name)

    def _is_signed_in(self, request: web.Request) -> bool:
        scheme, _, told = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_token(told.strip())
        until, _, proof = request.cookies.get(COOKIE, "").partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 12 and int(until) > time.time()):
            return False
        return _is_same(proof, self._proof(until))

    def _is_token(self, told: str) -> bool:
        return self._token is not None and hmac.compare_digest(_bytes(told), self._token)

    def _proof(self, until: str) -> str:
        """What only the token's holder can make: so the cookie outlives a restart, and isn't the token."""
        return hmac.new(self._token or b"", f"nametag session until {until}".encode(), hashlib.sha256).hexdigest()

    def _exchange(self, told: object) -> web.Response:
        is_right = isinstance(told, str) and self._is_token(told)
        return self._welcome() if is_right else _form("That isn't the token.")

    async def _sign_in(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(FORM_SECONDS):
                told = (await request.post()).get("token")
        except TimeoutError:
            return refuse(408, "the form didn't come in time")
        except Exception:
            # A form that can't be read, for whichever of its many reasons, holds no token.
            told = None
        return self._exchange(told)

    def _welcome(self) -> web.Response:
        """On to the page, under an address without the token."""
        response = web.Response(status=303, headers={"Location": PAGE})
        until = str(int(time.time()) + SESSION_SECONDS)
        response.set_cookie(
            COOKIE, f"{until}.{self._proof(until)}", max_age=SESSION_SECONDS, httponly=True, samesite="Strict", path="/"
        )
        return response


def _form(told: str) -> web.Response:
    page = _FORM.format(style=_FORM_STYLE, told=told, action=SIGN_IN, page=PAGE)
    headers = {"WWW-Authenticate": "Bearer", "Content-Security-Policy": _FORM_POLICY}
    return web.Response(text=page, status=401, content_type="text/html", charset="utf-8", headers=headers)


async def _secure(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "nametag"


def _is_from_elsewhere(request: web.Request) -> bool:
    """Whether a page of another origin sends this. What is no browser sends neither header."""
    headers = request.headers
    is_visit = request.method == "GET" and headers.get("Sec-Fetch-Mode") == "navigate"
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not is_visit:
        return True
    origin = headers.get("Origin")
    # The form's page has no referrer, so its origin is null; and who knows the token may sign in from anywhere.
    if origin is None or request.method in ("GET", "HEAD") or request.path == SIGN_IN:
        return False
    try:
        # The scheme may be a proxy's.
        return urlsplit(origin).netloc.lower() != headers.get("Host", "").lower()
    except ValueError:
        return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same(told: str, right: str) -> bool:
    return hmac.compare_digest(_bytes(told), _bytes(right))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
