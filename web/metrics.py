"""Metrics for Prometheus, in its text format 0.0.4."""

from functools import lru_cache

import distributed_cron as dc

from . import queries
from .render import render, unix_time

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'


def metrics(request):
    """All of them, as text. Labels are numbers and our own words: nothing to escape."""
    store = request.store
    since = request.local_now - dc.DAY
    jobs = queries.last_ends(store)
    return render(
        'metrics',
        states=queries.counts(store, request.now),
        overdue=queries.most_overdue(store, request.now),
        skips=queries.skips(store, since),
        jobs=jobs,
        failures=queries.failures(store, since),
        successes=last_successes(store, request.now, jobs),
    )


def last_successes(store, now, jobs):
    """When each job last had a run that succeeded, in seconds since 1970, by id."""
    ends = {}
    others = []  # jobs of whom the history must say it
    for job in jobs:
        if job.last_status == 'Success':
            ends[job.id] = job.last_end
        elif job.run_no:
            others.append(job.id)
    ends.update(queries.successes(store, others))
    seconds = seconds_by(store, now)
    return {id: seconds(end) for id, end in ends.items() if end}


def seconds_by(store, now):
    """A function from a local time of the database to seconds since 1970.

    It asks the database once for each quarter of an hour, because offsets change only
    between two of them."""

    @lru_cache(None)
    def utc_of(quarter):
        return store.zone.utc_before(quarter, now)

    def seconds(text):
        local = dc.moment(text)
        rest = (local - dc.EPOCH) % store.zone.SLOT
        return unix_time(utc_of(local - rest) + rest)

    return seconds
