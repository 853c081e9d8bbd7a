"""Where a worker says that others reach it."""

from redis import Redis

from app.jobs import roster


def test_a_worker_on_the_queue_s_own_machine_is_reached_there() -> None:
    assert roster.address_towards(Redis.from_url("unix:///nowhere/queue.sock")) == "127.0.0.1"
    assert roster.address_towards(Redis.from_url("redis://127.0.0.1:6379/0")) == "127.0.0.1"


def test_a_worker_elsewhere_is_reached_where_it_goes_out_towards_the_queue() -> None:
    """Nothing is sent: the address is that of the route, whoever is at its end."""
    address = roster.address_towards(Redis.from_url("redis://127.0.0.2:6379/0"))
    assert address.startswith("127.")
