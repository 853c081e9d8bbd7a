"""Files of preference pairs: uploaded as a stream, checked row by row."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path as LocalPath
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from app.auth.caller import GUARDED, Caller, CallerDep, requires
from app.body import TooLarge
from app.datasets.lines import FileTooLarge, UnreadableFile
from app.errors import NotFound, Unprocessable
from app.files import NoRows, StoredFile
from app.schemas.files import File, FileList
from app.schemas.names import FILE_ID
from app.schemas.problem import FieldProblem, documented
from app.service import Service, ServiceDep

router = APIRouter(prefix="/files", tags=["files"], dependencies=[requires("annotate")], responses=GUARDED)

FileId = Annotated[str, Path(pattern=FILE_ID)]
_MISSING = documented({404: "No such file."})
_BLOCK = 1 << 20
_LONGEST_NAME = 255
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@router.post(
    "",
    status_code=201,
    summary="Upload a file of preference pairs",
    responses=documented({413: "The file is too large.", 422: "The file cannot be read, or no row of it is a pair."}),
    openapi_extra=_BODY,
)
async def upload_file(
    request: Request,
    service: ServiceDep,
    caller: CallerDep,
    name: Annotated[str | None, Query(max_length=_LONGEST_NAME, description="What to call it.")] = None,
) -> File:
    """JSONL or Parquet, packed with gzip or not, as the body itself or as the part `file` of a form.

    Rows are `prompt`, `chosen`, `rejected`; HH-RLHF's two dialogues; or lists of messages as TRL and OpenAI write
    them. A row that is none of these is counted, and listed by jobs among their errors.
    """
    async with _received(request) as (path, called):
        try:
            async with service.checks:
                file = await run_in_threadpool(service.files.add, path, caller.owner, name or called)
        except NoRows as error:
            errors = [
                FieldProblem(pointer=f"line/{p.line}{p.pointer}", code=p.code, detail=p.detail) for p in error.problems
            ]
            raise Unprocessable("no row of the file is a pair", errors=errors) from None
        except FileTooLarge as error:
            raise TooLarge(str(error)) from None
        except UnreadableFile as error:
            raise Unprocessable(str(error)) from None
    return file.public()


@router.get("", summary="Uploaded files")
async def list_files(
    service: ServiceDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="The last id of the page before.")] = None,
) -> FileList:
    """The newest first."""
    found = await run_in_threadpool(service.files.listed, caller.owner, after, limit + 1)
    return FileList(data=[file.public() for file in found[:limit]], has_more=len(found) > limit)


@router.get("/{file_id}", summary="One file", responses=_MISSING)
async def get_file(file_id: FileId, service: ServiceDep, caller: CallerDep) -> File:
    """How many rows it has, and what is wrong with the first bad ones."""
    return (await stored_file(service, caller, file_id)).public()


@router.delete("/{file_id}", status_code=204, summary="Delete a file", responses=_MISSING)
async def delete_file(file_id: FileId, service: ServiceDep, caller: CallerDep) -> None:
    """Deletes it; a job that has not read all of it yet fails."""
    await run_in_threadpool(service.files.delete, await stored_file(service, caller, file_id))


async def stored_file(service: Service, caller: Caller, file_id: str, pointer: str = "path/file_id") -> StoredFile:
    """A file that the caller may see.

    Raises:
        NotFound: there is none.
    """
    file = await run_in_threadpool(service.files.get, file_id, None)
    if file is None or not caller.sees(file.owner):
        raise NotFound(
            "no such file", errors=[FieldProblem(pointer=pointer, code="unknown_file", detail="no such file")]
        )
    return file


@asynccontextmanager
async def _received(request: Request) -> AsyncIterator[tuple[LocalPath, str | None]]:
    """The upload in a local file that is gone afterwards, and what its form called it."""
    with tempfile.TemporaryDirectory(prefix="safemargin-upload-") as folder:
        path = LocalPath(folder) / "upload"
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            await _write(path, request.stream())
            yield path, None
            return
        async with request.form(max_files=1, max_fields=8) as form:
            part = form.get("file")
            if not isinstance(part, UploadFile):
                missing = FieldProblem(pointer="/file", code="missing", detail="the form has no part `file`")
                raise Unprocessable("the request is not valid", errors=[missing])
            await _write(path, _blocks(part))
            yield path, (part.filename or "")[:_LONGEST_NAME] or None


async def _blocks(part: UploadFile) -> AsyncIterator[bytes]:
    while block := await part.read(_BLOCK):
        yield block


async def _write(path: LocalPath, blocks: AsyncIterator[bytes]) -> None:
    with path.open("wb") as out:
        waiting = bytearray()
        async for block in blocks:
            waiting += block
            if len(waiting) >= _BLOCK:
                await asyncio.to_thread(out.write, bytes(waiting))
                waiting.clear()
        out.write(waiting)
