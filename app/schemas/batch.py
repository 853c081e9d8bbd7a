"""Requests of POST /jobs."""

from pydantic import Field

from app.schemas.annotate import AnnotateOptions
from app.schemas.names import FILE_ID


class JobRequest(AnnotateOptions):
    """A file to annotate, with any option of `POST /annotate`."""

    file: str = Field(pattern=FILE_ID, description="Id of an uploaded file.")
