"""Rule adapters: listed, shown and deleted; `POST /training` makes them."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool

from app.auth.caller import GUARDED, requires
from app.body import JsonRoute
from app.errors import NotFound
from app.ruleadapters import AdapterMissing
from app.schemas.names import AdapterId
from app.schemas.problem import documented
from app.schemas.ruleadapters import AdapterCard, AdapterList
from app.service import ServiceDep

router = APIRouter(prefix="/rule-adapters", route_class=JsonRoute, tags=["rules"], responses=GUARDED)

_READ, _CHANGE = [requires("annotate")], [requires("train")]
_MISSING = documented({404: "No such rule adapter."})
AdapterName = Annotated[AdapterId, Path()]


@router.get("", dependencies=_READ, summary="The rule adapters that there are")
async def list_adapters(service: ServiceDep) -> AdapterList:
    """By id."""
    return AdapterList(adapters=await run_in_threadpool(service.rule_adapters.cards))


@router.get("/{adapter_id}", dependencies=_READ, summary="One rule adapter", responses=_MISSING)
async def get_adapter(adapter_id: AdapterName, service: ServiceDep) -> AdapterCard:
    """What taught it and how well it chooses."""
    try:
        return await run_in_threadpool(service.rule_adapters.card, adapter_id)
    except AdapterMissing:
        raise _unknown() from None


@router.delete(
    "/{adapter_id}", dependencies=_CHANGE, status_code=204, summary="Delete a rule adapter", responses=_MISSING
)
async def delete_adapter(adapter_id: AdapterName, service: ServiceDep) -> None:
    """Deletes it with all its former versions."""
    try:
        await run_in_threadpool(service.rule_adapters.delete, adapter_id)
    except AdapterMissing:
        raise _unknown() from None


def _unknown() -> NotFound:
    detail = "there is no such rule adapter; GET /rule-adapters lists those there are"
    return NotFound.at("path/adapter_id", "unknown_adapter", detail)
