"""Alignments: listed, shown, downloaded and deleted; `POST /training` makes them."""

import mimetypes
from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.alignments import CURVES, REPORT, AlignmentMissing, Alignments
from app.auth.caller import GUARDED, requires
from app.body import JsonRoute
from app.dependants import directions_of
from app.errors import Conflict, NotFound
from app.schemas.alignment import AlignmentCard, AlignmentList, AlignmentReport
from app.schemas.names import AlignmentId
from app.schemas.problem import documented
from app.service import ServiceDep

router = APIRouter(prefix="/alignments", route_class=JsonRoute, tags=["alignments"], responses=GUARDED)

_READ, _CHANGE = [requires("annotate")], [requires("train")]
_MISSING = documented({404: "No such alignment."})
_BINARY = "application/octet-stream"
AlignmentName = Annotated[AlignmentId, Path()]


@router.get("", dependencies=_READ, summary="The alignments that there are")
async def list_alignments(service: ServiceDep) -> AlignmentList:
    """By id."""
    return AlignmentList(alignments=await run_in_threadpool(service.alignments.cards))


@router.get("/{alignment_id}", dependencies=_READ, summary="One alignment", responses=_MISSING)
async def get_alignment(alignment_id: AlignmentName, service: ServiceDep) -> AlignmentCard:
    """What was taught and how well its margins read pairs."""
    try:
        return await run_in_threadpool(service.alignments.card, alignment_id)
    except AlignmentMissing:
        raise _unknown() from None


@router.delete(
    "/{alignment_id}",
    dependencies=_CHANGE,
    status_code=204,
    summary="Delete an alignment",
    responses=_MISSING | documented({409: "Directions need it: delete those first."}),
)
async def delete_alignment(alignment_id: AlignmentName, service: ServiceDep) -> None:
    """Deletes it with all its former versions, unless a direction reads its activations."""
    try:
        await run_in_threadpool(_delete, service.alignments, alignment_id)
    except AlignmentMissing:
        raise _unknown() from None


@router.get(
    "/{alignment_id}/report",
    dependencies=_READ,
    summary="How it went",
    response_model=AlignmentReport,
    responses=_MISSING,
)
async def get_report(alignment_id: AlignmentName, service: ServiceDep) -> Response:
    """Settings, figures and the losses of every step."""
    return await run_in_threadpool(_file, service.alignments, alignment_id, REPORT)


@router.get(
    "/{alignment_id}/curves.png",
    dependencies=_READ,
    summary="Its loss curves",
    response_class=StreamingResponse,
    responses={**_MISSING, 200: {"content": {"image/png": {}}, "description": "A picture."}},
)
async def get_curves(alignment_id: AlignmentName, service: ServiceDep) -> Response:
    """A panel for each stage that was trained."""
    return await run_in_threadpool(_file, service.alignments, alignment_id, CURVES)


@router.get(
    "/{alignment_id}/files/{path:path}",
    dependencies=_READ,
    summary="One of its files",
    response_class=StreamingResponse,
    responses={**_MISSING, 200: {"content": {_BINARY: {}}, "description": "The file."}},
)
async def get_file(alignment_id: AlignmentName, path: str, service: ServiceDep) -> Response:
    """Any of the `files` of its card; the adapters among them are peft's."""
    return await run_in_threadpool(_file, service.alignments, alignment_id, path)


def _delete(alignments: Alignments, alignment_id: str) -> None:
    alignments.digest(alignment_id)
    if needing := directions_of(alignments.artifacts, alignment_id):
        detail = f"{needing} would be of no use without this alignment; delete those first"
        raise Conflict.at("path/alignment_id", "alignment_needed", detail)
    alignments.delete(alignment_id)


def _file(alignments: Alignments, alignment_id: str, path: str) -> Response:
    """One of the files that a card lists; no other path reaches the store."""
    try:
        card = alignments.card(alignment_id)
        if path not in card.files:
            raise NotFound.at(
                "path/path", "unknown_file", "the alignment has no such file; its card lists those it has"
            )
        size, blocks = alignments.blocks(card.id, card.digest, path)
    except AlignmentMissing:
        raise _unknown() from None
    media_type = mimetypes.guess_type(path)[0] or _BINARY
    return StreamingResponse(blocks, media_type=media_type, headers={"Content-Length": str(size)})


def _unknown() -> NotFound:
    detail = "there is no such alignment; GET /alignments lists those there are"
    return NotFound.at("path/alignment_id", "unknown_alignment", detail)
