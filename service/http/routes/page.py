"""The dashboard's page and its files: public, without data, under a strict content policy."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from service.http.auth import GuardedRoute, needs

router = APIRouter(route_class=GuardedRoute)
STATIC = files("service.http") / "static" / "dashboard"
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # browsers revalidate: an upgrade shows at once
}


@router.get("/", openapi_extra=needs("public"), include_in_schema=False)
async def page(request: Request) -> Response:
    """The dashboard."""
    return _file("index.html", request)


@router.get("/dashboard/static/{asset}", openapi_extra=needs("public"), include_in_schema=False)
async def asset(asset: str, request: Request) -> Response:
    """A file of the dashboard."""
    return _file(asset, request)


def _file(name: str, request: Request) -> Response:
    known = {entry.name for entry in STATIC.iterdir()}
    if name not in known:
        raise HTTPException(404, f"there is no {name!r} here")
    content = (STATIC / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = HEADERS | {"etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    kind = TYPES.get(name.rpartition(".")[2], "text/plain")
    return Response(content, headers=headers, media_type=kind)
