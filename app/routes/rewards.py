"""Reward models: listed, shown, downloaded and deleted; `POST /training` makes them."""

import mimetypes
from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.auth.caller import GUARDED, requires
from app.body import JsonRoute
from app.errors import NotFound
from app.rewards import RewardMissing, RewardModels
from app.schemas.names import RewardId
from app.schemas.problem import documented
from app.schemas.rewards import RewardCard, RewardList
from app.service import ServiceDep

router = APIRouter(prefix="/reward-models", route_class=JsonRoute, tags=["reward models"], responses=GUARDED)

_READ, _CHANGE = [requires("annotate")], [requires("train")]
_MISSING = documented({404: "No such reward model."})
_BINARY = "application/octet-stream"
RewardName = Annotated[RewardId, Path()]


@router.get("", dependencies=_READ, summary="The reward models that there are")
async def list_reward_models(service: ServiceDep) -> RewardList:
    """By id."""
    return RewardList(reward_models=await run_in_threadpool(service.reward_models.cards))


@router.get("/{reward_id}", dependencies=_READ, summary="One reward model", responses=_MISSING)
async def get_reward_model(reward_id: RewardName, service: ServiceDep) -> RewardCard:
    """What it was trained on and how, and how it reads the pairs held out."""
    try:
        return await run_in_threadpool(service.reward_models.card, reward_id)
    except RewardMissing:
        raise _unknown() from None


@router.delete(
    "/{reward_id}", dependencies=_CHANGE, status_code=204, summary="Delete a reward model", responses=_MISSING
)
async def delete_reward_model(reward_id: RewardName, service: ServiceDep) -> None:
    """Deletes it with all its former versions."""
    try:
        await run_in_threadpool(service.reward_models.delete, reward_id)
    except RewardMissing:
        raise _unknown() from None


@router.get(
    "/{reward_id}/files/{path:path}",
    dependencies=_READ,
    summary="One of its files",
    response_class=StreamingResponse,
    responses={**_MISSING, 200: {"content": {_BINARY: {}}, "description": "The file."}},
)
async def get_file(reward_id: RewardName, path: str, service: ServiceDep) -> Response:
    """Any of the `files` of its card: those in no folder are what `AutoModelForSequenceClassification` loads."""
    return await run_in_threadpool(_file, service.reward_models, reward_id, path)


def _file(models: RewardModels, reward_id: str, path: str) -> Response:
    """One of the files that a card lists; no other path reaches the store."""
    try:
        card = models.card(reward_id)
        if path not in card.files:
            detail = "the reward model has no such file; its card lists those it has"
            raise NotFound.at("path/path", "unknown_file", detail)
        size, blocks = models.blocks(card.id, card.digest, path)
    except RewardMissing:
        raise _unknown() from None
    media_type = mimetypes.guess_type(path)[0] or _BINARY
    return StreamingResponse(blocks, media_type=media_type, headers={"Content-Length": str(size)})


def _unknown() -> NotFound:
    detail = "there is no such reward model; GET /reward-models lists those there are"
    return NotFound.at("path/reward_id", "unknown_reward_model", detail)
