"""Banks of rule probes: listed, shown and deleted; `safemargin rules distil` makes them."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool

from app.auth.caller import GUARDED, requires
from app.body import JsonRoute
from app.errors import NotFound
from app.rulebanks import BankMissing
from app.schemas.names import BankId
from app.schemas.problem import documented
from app.schemas.rulebanks import BankCard, BankList
from app.service import ServiceDep

router = APIRouter(prefix="/rule-banks", route_class=JsonRoute, tags=["rules"], responses=GUARDED)

_READ, _CHANGE = [requires("annotate")], [requires("train")]
_MISSING = documented({404: "No such bank."})
BankName = Annotated[BankId, Path()]


@router.get("", dependencies=_READ, summary="The banks that there are")
async def list_banks(service: ServiceDep) -> BankList:
    """By id, each with how well it reads every rule and which policies are calibrated."""
    return BankList(banks=await run_in_threadpool(service.rule_banks.cards))


@router.get("/{bank_id}", dependencies=_READ, summary="One bank", responses=_MISSING)
async def get_bank(bank_id: BankName, service: ServiceDep) -> BankCard:
    """What a bank is, how it was made and how well it reads."""
    try:
        return await run_in_threadpool(service.rule_banks.card, bank_id)
    except BankMissing:
        raise _unknown() from None


@router.delete("/{bank_id}", dependencies=_CHANGE, status_code=204, summary="Delete a bank", responses=_MISSING)
async def delete_bank(bank_id: BankName, service: ServiceDep) -> None:
    """Deletes it with all its former versions."""
    try:
        await run_in_threadpool(service.rule_banks.delete, bank_id)
    except BankMissing:
        raise _unknown() from None


def _unknown() -> NotFound:
    detail = "there is no such bank; GET /rule-banks lists those there are"
    return NotFound.at("path/bank_id", "unknown_bank", detail)
