"""When a delivery that failed is tried again."""

import pytest

from app.webhooks.backoff import DELAYS, delay, seconds_asked

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT
DAY = 86_400.0


def test_delays_grow_from_seconds_to_a_day_and_then_it_is_given_up() -> None:
    waits = [delay(number, 0.0, 0.0) for number in range(1, len(DELAYS) + 2)]
    assert waits == [5, 30, 120, 600, 3600, 21_600, DAY, None]


def test_chance_stretches_a_delay_by_up_to_a_fifth() -> None:
    assert [delay(2, 0.0, chance) for chance in (0.0, 0.5, 1.0)] == [30, 33, 36]


def test_a_receiver_can_ask_for_more_patience_but_not_for_less_nor_for_more_than_a_day() -> None:
    assert [delay(2, asked, 0.0) for asked in (0.0, 10.0, 300.0, 1e9, float("inf"))] == [30, 30, 300, DAY, DAY]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("120", 120),
        (" 7 ", 7),
        ("Tue, 14 Nov 2023 22:15:20 GMT", 120),
        ("Tue, 14 Nov 2023 22:10:00 GMT", 0),
        ("soon", 0),
        ("-5", 0),
        ("1.5", 0),
        ("", 0),
        ("٣", 0),
        ("Tue, 99 Nov 2023 99:00:00 GMT", 0),
        ("Tue, 14 Nov 99999999999999 22:15:20 GMT", 0),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after_in_both_notations(header: str | None, seconds: float) -> None:
    assert seconds_asked(header, NOW) == seconds
