"""The judge of the comparison with other schedulers, on invented histories."""

from collections import Counter

import pytest
from faults.peers import judge
from faults.schedulers import SECONDS, Run

TICKS = [100.0 + 60 * number for number in range(4)]
END = 340
WELL = (0, 0, 0, 0, 0)


def history():
    """Runs of all jobs as they should be: one a minute, each for two seconds."""
    return [Run(job, tick + 0.3, tick + 2.3) for job in SECONDS for tick in TICKS]


def judged(runs, results=None):
    """What was found: lost, late, twice, overlaps, unrecorded. All is on record, if no
    results are given."""
    if results is None:
        results = Counter(run.job for run in runs if run.end)
    return judge(TICKS, runs, END, results)[1:6]


def of_first(runs):
    return [run for run in runs if run.job == '1']


def without(runs, *gone):
    return [run for run in runs if run not in gone]


def test_what_is_well():
    assert judged(history()) == WELL
    assert judge(TICKS, history(), END).unrecorded is None
    assert judge(TICKS, history(), END).ticks == 4 * len(SECONDS)


@pytest.mark.parametrize('number', range(4))
def test_a_lost_tick(number):
    runs = history()
    runs.remove(of_first(runs)[number])
    assert judged(runs) == (1, 0, 0, 0, 0)


def test_a_late_run_and_one_that_a_later_minute_makes_up_for():
    runs = history()
    second = of_first(runs)[1]
    inside = second._replace(start=190.0, end=192.0)
    after = second._replace(start=250.0, end=252.0)  # beside that minute's own run
    assert judged([*without(runs, second), inside]) == (0, 1, 0, 0, 0)
    assert judged([*without(runs, second), after]) == (0, 1, 0, 0, 0)


def test_a_second_run_of_one_tick():
    again = Run('1', 110.0, 112.0)
    assert judged([*history(), again]) == (0, 0, 1, 0, 0)


def test_a_run_long_before_its_minute_leaves_that_lost():
    runs = history()
    second = of_first(runs)[1]
    early = second._replace(start=150.0, end=152.0)
    assert judged([*without(runs, second), early]) == (1, 0, 1, 0, 0)


def test_two_at_once():
    beside = Run('1', 101.0, 103.0)
    assert judged([*history(), beside]) == (0, 0, 1, 1, 0)
    runs = history()
    second = of_first(runs)[1]
    busy = second._replace(busy=True)  # beside one that never wrote its end
    assert judged([*without(runs, second), busy]) == (0, 0, 0, 1, 0)


def test_a_run_that_ended_and_is_not_on_record():
    assert judged(history(), dict.fromkeys(SECONDS, 3)) == (0, 0, 0, 0, len(SECONDS))
    runs = history()
    killed = of_first(runs)[1]
    runs = [*without(runs, killed), killed._replace(end=None)]
    assert judged(runs) == WELL


def test_the_time_until_it_goes_on():
    assert judge(TICKS, history(), END).gap == pytest.approx(0)
    runs = [run for run in history() if run.start < 200]
    assert judge(TICKS, runs, END).gap == pytest.approx(340 - 160.3 - 60)
    runs = [run for run in history() if run.job != '1' or run.start > 200]
    assert judge(TICKS, runs, END).gap == pytest.approx(220.3 - 100 - 60)


def test_what_ran_before_and_after_counts_for_the_record_alone():
    outside = [Run('1', 50.0, 52.0), Run('1', 345.0, 347.0)]
    results = dict.fromkeys(SECONDS, len(TICKS))
    assert judged([*history(), *outside], results) == (0, 0, 0, 0, 2)
