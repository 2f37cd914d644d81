"""Metrics for Prometheus, in its text format 0.0.4."""

from functools import lru_cache

import distributed_cron as dc

from . import queries


def metrics(request):
    """All of them, as text. Labels are numbers and our own words: nothing to escape."""
    store, now, lines = request.store, request.now, []
    seconds = seconds_by(store, now)
    jobs = store.query('SELECT id, run_no, last_status, last_end FROM job ORDER BY id')
    failed = queries.failures(store, request.local_now - dc.DAY)
    good = {job.id: job.last_end for job in jobs if job.last_status == 'Success'}
    good.update(
        queries.successes(
            store, [job.id for job in jobs if job.run_no and job.id not in good]
        )
    )
    for name, label, values, kind, text in (
        ('jobs', 'state', queries.counts(store, now), 'gauge', 'Jobs by state.'),
        (
            'overdue_seconds',
            '',
            {'': overdue(store, now)},
            'gauge',
            'How long the most overdue job, or run, is overdue.',
        ),
        (
            'runs_total',
            'job',
            {job.id: job.run_no for job in jobs},
            'counter',
            'Runs that were claimed since the job was added.',
        ),
        (
            'failures_last_day',
            'job',
            {job.id: failed.get(job.id, 0) for job in jobs},
            'gauge',
            'Runs of the last 24 hours that did not end as Success.',
        ),
        (
            'last_success_timestamp_seconds',
            'job',
            {id: seconds(when) for id, when in good.items() if when},
            'gauge',
            'When the last run that ended as Success did so.',
        ),
    ):
        lines += [
            '# HELP distributed_cron_%s %s' % (name, text),
            '# TYPE distributed_cron_%s %s' % (name, kind),
        ]
        lines += [
            'distributed_cron_%s%s %d'
            % (name, '{%s="%s"}' % (label, word) if label else '', value)
            for word, value in values.items()
        ]
    return '\n'.join(lines) + '\n'


def seconds_by(store, now):
    """A function from a local time of the database to seconds since 1970. The database
    is asked once for each quarter of an hour, on which alone offsets change."""
    utc_of = lru_cache(None)(lambda slot: store.zone.utc_before(slot, now))

    def seconds(text):
        local = dc.moment(text)
        rest = (local - dc.EPOCH) % store.zone.SLOT
        return (utc_of(local - rest) + rest - dc.EPOCH) // dc.SECOND

    return seconds


def overdue(store, now):
    """Seconds by which the most overdue job waits, or run is past its deadline."""
    since = store.query(
        '''SELECT
        (SELECT MIN(next_run_utc) FROM job WHERE run_token IS NULL AND next_run_utc < :late
            AND (active <> 0 OR run_requested <> 0)),
        (SELECT MIN(run_deadline_utc) FROM job WHERE run_deadline_utc < :now)''',
        late=dc.text_of(now - dc.MINUTE),
        now=dc.text_of(now),
    )[0]
    return max(
        [(now - when).total_seconds() for when in map(dc.moment, since) if when],
        default=0,
    )
