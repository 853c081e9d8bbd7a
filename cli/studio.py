"""Label Studio's HTTP API, as far as predictions for a project need it.

StudioRefused   it answered with an error

Where it does not answer, `app.client` has the words for it: `Unreachable`, or `ServiceError` of a status that may pass.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError

from app.client.retries import RETRIED, Outcome, Retries
from app.client.synchronous import connection
from app.schemas.labelstudio import Prediction

M = TypeVar("M", bound=BaseModel)

_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
_PAGE = 200
_DOTS_OF_A_JWT = 2


class StudioRefused(Exception):
    """Label Studio answered with an error.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"Label Studio: {status} {detail}")
        self.status = status


class StudioProject(BaseModel):
    """A project.

    Attributes:
        shown: the model version whose predictions people see, or the title of an ML backend; empty for none.
    """

    id: int
    label_config: str
    shown: str | None = Field(default=None, alias="model_version")


class _Known(BaseModel):
    model_version: str | None = None


class StudioTask(BaseModel):
    """A task, and the predictions that it has."""

    id: int
    data: dict[str, Any]
    predictions: list[_Known]

    def has(self, version: str) -> bool:
        """Whether a model version has predicted it."""
        return any(known.model_version == version for known in self.predictions)


class TaskPrediction(Prediction):
    """A prediction and its task."""

    task: int


class _Access(BaseModel):
    access: str


class _Created(BaseModel):
    created: int


class _Page(BaseModel):
    total: int
    tasks: list[StudioTask]


class Studio:
    """One Label Studio.

    Args:
        url: where it is.
        token: of a user: a personal access token, or a legacy one.
        patience: seconds that a call goes on failing before it raises.
        transport: what carries requests instead of the network.
        sleep: waits that many seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        patience: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.Client(transport=transport, **connection(url, "") | {"timeout": _TIMEOUT})
        self._token = token
        self._personal = token.count(".") == _DOTS_OF_A_JWT
        self._access = "" if self._personal else f"Token {token}"
        self._sleep = sleep
        self._retries: Callable[[], Retries] = lambda: Retries(patience, clock)

    def project(self, project_id: int) -> StudioProject:
        """A project."""
        return _read(StudioProject, self._insist("GET", f"/api/projects/{project_id}"))

    def show(self, project_id: int, version: str) -> None:
        """Let people see the predictions of a model version, of which there must be some."""
        self._insist("PATCH", f"/api/projects/{project_id}", json={"model_version": version})

    def tasks(self, project_id: int, ids: tuple[int, int] | None = None) -> Iterator[StudioTask]:
        """The tasks of a project, page by page; only those with ids from one to another where they are given."""
        query: dict[str, Any] = {"project": project_id, "page_size": _PAGE, "fields": "all", "resolve_uri": "false"}
        if ids:
            between = {"filter": "filter:tasks:id", "operator": "in", "type": "Number"}
            items = [between | {"value": {"min": ids[0], "max": ids[1]}}]
            query["query"] = json.dumps({"filters": {"conjunction": "and", "items": items}})
        page, seen = 1, 0
        while True:
            found = _read(_Page, self._insist("GET", "/api/tasks", params=query | {"page": page}))
            yield from found.tasks
            page, seen = page + 1, seen + len(found.tasks)
            if not found.tasks or seen >= found.total:
                return

    def add(self, project_id: int, predictions: Sequence[TaskPrediction]) -> None:
        """Add predictions of one model version to tasks in ascending order, each once.

        Where the connection breaks, Label Studio is asked which of them it has before the others are sent again.

        Raises:
            StudioRefused: it does not take them all.
        """
        left, retries = list(predictions), self._retries()
        while left:
            body = [one.model_dump() for one in left]
            outcome = self._send("POST", f"/api/projects/{project_id}/import/predictions", json=body)
            if isinstance(outcome, httpx.Response) and outcome.status_code not in RETRIED:
                created = _read(_Created, _accepted(outcome)).created
                if created < len(left):
                    raise StudioRefused(200, f"took {created} of {len(left)} predictions; its log says why")
                return
            self._sleep(retries.pause(outcome).seconds)
            version = left[0].model_version
            there = self.tasks(project_id, (left[0].task, left[-1].task))
            done = {task.id for task in there if task.has(version)}
            left = [one for one in left if one.task not in done]

    def __enter__(self) -> Self:
        """Label Studio itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close connections."""
        self._http.close()

    def _insist(self, method: str, path: str, **content: Any) -> httpx.Response:
        retries = self._retries()
        while True:
            outcome = self._send(method, path, **content)
            if isinstance(outcome, httpx.Response) and outcome.status_code not in RETRIED:
                return _accepted(outcome)
            self._sleep(retries.pause(outcome).seconds)

    def _send(self, method: str, path: str, **content: Any) -> Outcome:
        """What comes of a request; with a personal token, an access token is fetched where there is none that holds."""
        try:
            if not self._access:
                self._access = self._refreshed()
            outcome = self._http.request(method, path, headers={"Authorization": self._access}, **content)
            if outcome.status_code == httpx.codes.UNAUTHORIZED and self._personal:
                self._access = self._refreshed()
                outcome = self._http.request(method, path, headers={"Authorization": self._access}, **content)
            return outcome
        except httpx.RequestError as error:
            return error
        except httpx.HTTPStatusError as error:
            return error.response

    def _refreshed(self) -> str:
        answer = self._http.post("/api/token/refresh/", json={"refresh": self._token})
        if answer.status_code in RETRIED:
            answer.raise_for_status()
        return f"Bearer {_read(_Access, _accepted(answer)).access}"


def _accepted(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.reason_phrase
    raise StudioRefused(response.status_code, str(detail))


def _read(model: type[M], response: httpx.Response) -> M:
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise StudioRefused(response.status_code, "the answer is not Label Studio's: is this its address?") from None
