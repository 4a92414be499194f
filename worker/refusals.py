"""Every error of the worker's server in one shape: JSON, with one sentence."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from consumers import wire

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refuse(status: int, sentence: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error as JSON: one sentence."""
    body = wire.dumps({"error": sentence})
    return web.Response(body=body, status=status, headers=headers, content_type="application/json", charset="utf-8")


@web.middleware
async def in_one_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What aiohttp refuses by itself, in words of ours."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return refuse(404, "nothing is served here; try /live, /tag, /metrics, /healthz or /readyz")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return refuse(405, f"{error.method} isn't answered here; use {allowed}", {"Allow": allowed})
    except web.HTTPError as error:
        return refuse(error.status, error.reason.lower())
