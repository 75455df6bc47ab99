"""Errors in the API's form."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
MAX_PROBLEMS = 5


class ApiError(Exception):
    """What a request is answered with instead of a completion."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers or {}

    def as_object(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII: what a client sent may hold half a surrogate pair, which UTF-8 cannot carry."""
    return Response(json.dumps(content), status_code=status, headers=headers, media_type="application/json")


async def on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return json_response(error.as_object(), error.status, error.headers)


async def on_http_error(_: Request, error: Exception) -> Response:
    """An unknown path, a method that is not allowed, a body that cannot be read."""
    assert isinstance(error, HTTPException)
    shown = ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    return await on_api_error(_, shown)


async def on_invalid_request(_: Request, error: Exception) -> Response:
    """A body that is not a request: which fields, and what must hold. The values are not repeated."""
    assert isinstance(error, RequestValidationError)
    problems = [
        (".".join(str(part) for part in problem["loc"] if part != "body"), str(problem["msg"]))
        for problem in error.errors()
    ]
    shown = "; ".join(f"{where or 'body'}: {message}" for where, message in problems[:MAX_PROBLEMS])
    return await on_api_error(
        _, ApiError(400, shown[:2_000], code="invalid_request", param=problems[0][0][:200] or None)
    )
