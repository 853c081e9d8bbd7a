"""Who calls, and whether they may: what routes ask for."""

import base64
from dataclasses import dataclass
from typing import Annotated, Any, cast, get_args

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.auth.keys import KeyRing, Scope
from app.errors import Forbidden, Unauthorized
from app.schemas.problem import FieldProblem, documented
from app.service import Service, ServiceDep

GUARDED = documented(
    {
        401: "No API key, or none that is known; the same answer in every case.",
        403: "The key lacks the scope that this needs; `detail` names it.",
    }
)
"""What the description of every endpoint behind `requires` says."""

_bearer = HTTPBearer(
    scheme_name="api-key",
    bearerFormat="sm_…",
    description="Asked for where the service runs with `SAFEMARGIN_AUTH=1`; `safemargin keys create` makes one.",
    auto_error=False,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        owner: the team; empty where no keys are asked for.
        key_id: the key's public part; empty likewise.
        scopes: what the key may do.
        tokens_per_minute: the key's quota in estimated tokens; None for no limit.
    """

    owner: str
    key_id: str
    scopes: frozenset[Scope]
    tokens_per_minute: int | None = None

    def may(self, scope: Scope) -> bool:
        """Whether this is in the caller's scopes; `admin` stands for all of them."""
        return scope in self.scopes or "admin" in self.scopes

    def sees(self, owner: str) -> bool:
        """Whether the jobs and files of an owner are the caller's to see."""
        return owner == self.owner or "admin" in self.scopes


ANYBODY = Caller(owner="", key_id="", scopes=frozenset(get_args(Scope)))
"""Who calls a service that asks for no keys."""


async def caller_of(request: Request) -> Caller:
    """Who sent a request, as its headers say.

    Raises:
        Unauthorized: nobody known.
    """
    return await _caller(request, cast(Service, request.app.state.service), await _bearer(request))


async def _caller(
    request: Request,
    service: ServiceDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    if not service.settings.auth:
        return ANYBODY
    ring = cast(KeyRing, request.app.state.key_ring)
    sent = credentials.credentials if credentials else _of_url(request)
    key = await ring.holder(sent) if sent else None
    if key is None:
        raise Unauthorized(
            "an API key is needed, as `Authorization: Bearer sm_…`", headers={"WWW-Authenticate": "Bearer"}
        )
    return Caller(key.owner, key.id, frozenset(key.scopes), key.tokens_per_minute)


def _of_url(request: Request) -> str | None:
    """The key of a client that takes nothing but a URL: `http://key:sm_…@host/` arrives as a user's password."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:
        return None


CallerDep = Annotated[Caller, Depends(_caller)]


def requires(*any_of: Scope) -> Any:
    """A dependency that lets only callers pass who have one of these scopes.

    Raises:
        Unauthorized: (when asked) there is no valid key.
        Forbidden: (when asked) the key has none of them.
    """
    names = " or ".join(f"`{scope}`" for scope in any_of)

    async def check(caller: CallerDep) -> None:
        if not any(caller.may(scope) for scope in any_of):
            detail = f"this key lacks the scope {names}"
            raise Forbidden(
                detail, errors=[FieldProblem(pointer="header/authorization", code="missing_scope", detail=detail)]
            )

    return Depends(check)
