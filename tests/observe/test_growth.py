"""When a disk is full: in closed form, and at a server whose database grows."""

from __future__ import annotations

import math

import pytest

from service.observe.growth import Growth
from service.observe.health import ServerState, check_server

GIB = 2**30
DAY = 86400.0


def grown(*samples: tuple[float, int]) -> Growth:
    growth = Growth()
    for time_s, num_bytes in samples:
        growth.add(time_s, num_bytes)
    return growth


def test_the_rate_is_that_of_the_samples() -> None:
    """1,000 bytes a second from 1 MB: 100 GB last 1e8 s."""
    growth = grown(*((30.0 * n, 1_000_000 + 30_000 * n) for n in range(100)))
    assert growth.rate == pytest.approx(1000.0)
    assert growth.full_in_s(10**11, None, None) == pytest.approx(1e8)


def test_nothing_is_said_before_ten_minutes() -> None:
    assert grown().full_in_s(GIB, None, None) is None
    assert grown((0.0, 1), (599.0, GIB)).rate is None
    assert grown((0.0, 1), (600.0, 601)).rate == pytest.approx(1.0)


def test_a_day_is_looked_at_and_no_longer() -> None:
    """Fast for three days, then level for a day and more."""
    fast = [(300.0 * n, 10**6 * n) for n in range(864)]
    level = [(300.0 * n, 10**6 * 863) for n in range(864, 1200)]
    assert grown(*fast).rate == pytest.approx(10**6 / 300.0)
    assert grown(*fast, *level).rate == 0.0


@pytest.mark.parametrize(
    ("free", "max_bytes", "max_age_s", "full_in_s"),
    [
        (GIB, None, None, GIB / 1000.0),
        (GIB, GIB // 2, None, math.inf),  # the limit comes first
        (GIB, 3 * GIB, None, GIB / 1000.0),
        (GIB, None, 10 * DAY, math.inf),  # 0.86 GB of ten days
        (GIB, None, 20 * DAY, GIB / 1000.0),
    ],
)
def test_limits_of_retention_hold(
    free: int, max_bytes: int | None, max_age_s: float | None, full_in_s: float
) -> None:
    growth = grown((0.0, 0), (1000.0, 1_000_000))
    assert growth.full_in_s(free, max_bytes, max_age_s) == pytest.approx(full_in_s)


def test_a_disk_that_lasts_less_than_a_week_is_a_notice() -> None:
    def found(full_in_s: float | None) -> list[str]:
        state = ServerState(
            store_failure=None, trainer_down_s=0, trainer_silent_s=0, stale_s=900,
            disk_full_in_s=full_in_s, disk_free_bytes=GIB,
        )  # fmt: skip
        return [finding.message for finding in check_server(state)]

    assert found(None) == found(math.inf) == found(7 * DAY) == []
    assert found(2.5 * DAY) == [
        "the disk has 1.0 GiB left, and is full in 2.5 days at the growth of the database"
    ]
