"""Metrics for Prometheus, in its text format 0.0.4."""

from collections import namedtuple
from functools import lru_cache

import distributed_cron as dc

from . import queries
from .render import unix_time

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

# values: label's value -> number; label: '' where there is only one value
Metric = namedtuple('Metric', 'name kind text values label', defaults=('',))


def metrics(request):
    """All of them, as text. Labels are numbers and our own words: nothing to escape."""
    store = request.store
    now = request.now
    jobs = queries.last_ends(store)
    found = (
        *metrics_of_all(store, now, request.local_now - dc.DAY),
        *metrics_by_job(store, now, request.local_now - dc.DAY, jobs),
    )
    return ''.join(map(lines_of, found))


def metrics_of_all(store, now, since):
    """Metrics of all jobs together. since: a local time, a day ago."""
    states = queries.counts(store, now)
    return (
        Metric('jobs', 'gauge', 'Jobs by state.', states, 'state'),
        Metric(
            'overdue_seconds',
            'gauge',
            'How long the most overdue job, or run, is overdue.',
            {'': queries.most_overdue(store, now)},
        ),
        Metric(
            'skips_last_day',
            'gauge',
            'Gaps of the last 24 hours in which a job did not run when it was due.',
            queries.skips(store, since),
            'reason',
        ),
    )


def metrics_by_job(store, now, since, jobs):
    """Metrics of each job."""
    failed = queries.failures(store, since)
    return (
        Metric(
            'runs_total',
            'counter',
            'Runs that were claimed, and skips, since the job was added.',
            {job.id: job.run_no for job in jobs},
            'job',
        ),
        Metric(
            'failures_last_day',
            'gauge',
            'Runs of the last 24 hours that failed.',
            {job.id: failed.get(job.id, 0) for job in jobs},
            'job',
        ),
        Metric(
            'last_success_timestamp_seconds',
            'gauge',
            'When the last run that ended as Success did so.',
            last_successes(store, now, jobs),
            'job',
        ),
    )


def lines_of(metric):
    """The lines of a metric."""
    name = 'distributed_cron_' + metric.name
    lines = [
        '# HELP %s %s\n' % (name, metric.text),
        '# TYPE %s %s\n' % (name, metric.kind),
    ]
    for key, value in metric.values.items():
        labels = '{%s="%s"}' % (metric.label, key) if metric.label else ''
        lines.append('%s%s %d\n' % (name, labels, value))
    return ''.join(lines)


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
