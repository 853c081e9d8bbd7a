"""What the client tries again, when, and when it gives up."""

import httpx
import pytest

from app.client import Client, ServiceError, Unreachable
from app.schemas.problem import FieldProblem, Problem
from tests.app.client.service import Clock, Service, problem


def client(service: Service, clock: Clock, patience: float = 60) -> Client:
    transport = httpx.MockTransport(service)
    return Client("http://test", transport=transport, sleep=clock.sleep, clock=clock, patience=patience)


@pytest.fixture
def service() -> Service:
    made = Service()
    made(httpx.Request("POST", "http://test/files", content=b""))
    made(httpx.Request("POST", "http://test/jobs", json={"file": "f1"}))
    made.asked.clear()
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again_after_the_time_asked_for(service: Service, clock: Clock, status: int) -> None:
    service.faults = [problem(status, "busy", Retry_After="7")] * 2
    assert client(service, clock).job("j1").id == "j1"
    assert clock.slept == [7, 7]


def test_a_date_to_retry_after_counts_from_the_date_of_the_answer(service: Service, clock: Clock) -> None:
    asked = {"Date": "Fri, 20 Nov 1990 10:00:00 GMT", "Retry_After": "Fri, 20 Nov 1990 10:00:09 GMT"}
    service.faults = [problem(503, "busy", **asked)]
    client(service, clock).job("j1")
    assert clock.slept == [9]


@pytest.mark.parametrize("odd", ["soon", "-3", "", "٣"])
def test_a_retry_after_that_makes_no_sense_is_no_reason_to_wait_long(service: Service, clock: Clock, odd: str) -> None:
    service.faults = [httpx.Response(503, headers={b"Retry-After": odd.encode()})]
    client(service, clock).job("j1")
    assert 0 < clock.slept[0] <= 0.5


def test_without_a_hint_pauses_grow_at_most_exponentially(service: Service, clock: Clock) -> None:
    service.faults = [httpx.ConnectError("refused") for _ in range(5)]
    client(service, clock).job("j1")
    assert all(0 < pause <= 0.5 * 2**i for i, pause in enumerate(clock.slept))


def test_patience_bounds_how_long_it_goes_on(service: Service, clock: Clock) -> None:
    service.faults = [httpx.ConnectError("refused") for _ in range(1000)]
    with pytest.raises(Unreachable, match="refused"):
        client(service, clock, patience=20).job("j1")
    assert clock.now <= 20


def test_a_wait_longer_than_patience_is_not_begun(service: Service, clock: Clock) -> None:
    service.faults = [problem(503, "no worker", Retry_After="61")]
    with pytest.raises(ServiceError, match="no worker") as raised:
        client(service, clock).job("j1")
    assert (raised.value.status, clock.slept) == (503, [])


@pytest.mark.parametrize("status", [301, 400, 401, 404, 409, 410, 422, 500])
def test_other_refusals_are_raised_at_once_with_their_problem(service: Service, clock: Clock, status: int) -> None:
    service.faults = [problem(status, "because")]
    with pytest.raises(ServiceError) as raised:
        client(service, clock).job("j1")
    assert (raised.value.status, raised.value.problem.detail, clock.slept) == (status, "because", [])


def test_what_a_problem_and_its_field_both_say_is_said_once() -> None:
    field = FieldProblem(pointer="/rules/bank", code="unknown_bank", detail="nobody holds it")
    known = Problem(title="Not Found", status=404, detail="nobody holds it", errors=[field])
    assert str(ServiceError(404, known)) == "404 Not Found: /rules/bank: nobody holds it"
    other = known.model_copy(update={"detail": "the request is not valid"})
    assert str(ServiceError(422, other)) == "422 Not Found: the request is not valid; /rules/bank: nobody holds it"


def test_an_answer_of_something_else_is_an_error_too(service: Service, clock: Clock) -> None:
    service.faults = [httpx.Response(404, text="<html>"), httpx.Response(200, text="<html>")]
    for status, said in ((404, "no problem document"), (200, "is this the service")):
        with pytest.raises(ServiceError, match=said) as raised:
            client(service, clock).job("j1")
        assert raised.value.status == status


def test_an_address_that_cannot_be_one_is_not_tried_again(clock: Clock) -> None:
    with Client("localhost:8000", sleep=clock.sleep, clock=clock) as lost, pytest.raises(Unreachable):
        lost.directions()
    assert clock.slept == []
