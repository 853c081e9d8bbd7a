"""Requests of POST /jobs."""

from pydantic import Field

from app.schemas.annotate import AnnotateOptions


class JobRequest(AnnotateOptions):
    """A file to annotate, with any option of `POST /annotate`."""

    file: str = Field(pattern=r"^file-[0-9a-f]{32}$", description="Id of an uploaded file.")
