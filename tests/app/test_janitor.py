"""What has expired is deleted from the artifact store, and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.artifacts import Artifacts, StoreUnreachable
from app.janitor import sweep
from app.jobs import keys

NOW = 1000.0


@pytest.fixture
def redis(empty_queue: str) -> Iterator[Redis]:
    with Redis.from_url(empty_queue) as redis:
        yield redis


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "artifacts"))


def kept(redis: Redis, artifacts: Artifacts, entry: str, until: float) -> None:
    kind, _, name = entry.partition(":")
    artifacts.write(f"{kind}s/{name}/rows.jsonl", b"text")
    artifacts.write(f"{kind}s/{name}/answers/0.json", b"text")
    redis.zadd(keys.EXPIRING, {entry: until})


def test_jobs_and_files_go_when_their_time_has_come(redis: Redis, artifacts: Artifacts) -> None:
    for entry, until in {"job:old": 1, "job:new": 1001, "file:old": NOW, "file:new": 2000}.items():
        kept(redis, artifacts, entry, until)
    assert sweep(redis, artifacts, NOW) == 2
    assert (artifacts.folders("jobs"), artifacts.folders("files")) == (["new"], ["new"])
    assert redis.zrange(keys.EXPIRING, 0, -1) == [b"job:new", b"file:new"]
    assert sweep(redis, artifacts, NOW) == 0


def test_any_number_goes_at_once(redis: Redis, artifacts: Artifacts) -> None:
    redis.zadd(keys.EXPIRING, {f"job:{number}": 1 for number in range(250)})
    assert sweep(redis, artifacts, NOW) == 250


def test_what_is_gone_already_is_no_trouble(redis: Redis, artifacts: Artifacts) -> None:
    redis.zadd(keys.EXPIRING, {"job:gone": 1})
    assert sweep(redis, artifacts, NOW) == 1


def test_what_is_kept_for_longer_meanwhile_stays(
    redis: Redis, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(redis, artifacts, "job:first", 1)
    kept(redis, artifacts, "file:sent-again", 2)
    delete = artifacts.delete

    def send_again(path: str) -> None:
        redis.zadd(keys.EXPIRING, {"file:sent-again": 2000})
        delete(path)

    monkeypatch.setattr(artifacts, "delete", send_again)
    assert sweep(redis, artifacts, NOW) == 1
    assert artifacts.folders("files") == ["sent-again"]


def test_what_cannot_be_deleted_is_tried_again(
    redis: Redis, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(redis, artifacts, "job:old", 1)

    def away(_path: str) -> None:
        raise StoreUnreachable

    with monkeypatch.context() as broken, pytest.raises(StoreUnreachable):
        broken.setattr(artifacts, "delete", away)
        sweep(redis, artifacts, NOW)
    assert sweep(redis, artifacts, NOW) == 1
    assert artifacts.folders("jobs") == []
