"""Directions: what running workers hold, how it was made and how well it reads."""

from fastapi import APIRouter

from app.schemas.directions import DirectionCard, DirectionList
from app.schemas.problem import Problem
from app.service import ServiceDep

router = APIRouter(prefix="/directions", tags=["directions"])


@router.get("", summary="Directions that can be used now")
async def list_directions(service: ServiceDep) -> DirectionList:
    """Every direction that a ready worker holds."""
    held = await service.directions()
    return DirectionList(directions=[held[name] for name in sorted(held)])


@router.get(
    "/{direction_id}",
    summary="One direction",
    responses={404: {"model": Problem, "description": "No worker holds such a direction."}},
)
async def get_direction(direction_id: str, service: ServiceDep) -> DirectionCard:
    """How a direction was made and how well it reads."""
    return await service.direction(direction_id)
