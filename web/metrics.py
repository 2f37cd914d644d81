"""Metrics for Prometheus, in its text format 0.0.4."""
import fcntl
import json
import os

import distributed_cron as dc

from . import queries

EPOCH = {  # local time of the database, as seconds since 1970
    'sqlite': "CAST(STRFTIME('%%s', %s, 'utc') AS INTEGER)",
    'mysql': 'UNIX_TIMESTAMP(%s)',
    'postgresql': 'EXTRACT(EPOCH FROM CAST(%s AS timestamptz))'}


def metrics(request):
    """All of them, as text. Labels are numbers and our own words: nothing to escape."""
    store, now = request.store, request.now
    ended = EPOCH[store.config.db_engine] % 'last_end'
    jobs = store.query('''SELECT id, run_no, run_token, last_status, %s AS ended
        FROM job ORDER BY id''' % ended)
    seen, lines = counted(request, jobs), []
    for name, label, values, kind, text in (
            ('jobs', 'state', queries.counts(store, now), 'gauge', 'Jobs by state.'),
            ('overdue_seconds', '', {'': overdue(store, now)}, 'gauge',
             'How long the most overdue job, or run, is overdue.'),
            ('runs_total', 'job', {job.id: job.run_no for job in jobs}, 'counter',
             'Runs that were claimed since the job was added.'),
            ('failures_total', 'job', {id: facts[1] for id, facts in seen.items()},
             'counter', 'Runs that did not end as Success, as first recorded, since '
             'this page was first asked; with those before, if the job failed then.'),
            ('last_success_timestamp_seconds', 'job', {
                id: facts[2] for id, facts in seen.items() if facts[2]}, 'gauge',
             'When the last run ended as Success.')):
        lines += ['# HELP distributed_cron_%s %s' % (name, text),
                  '# TYPE distributed_cron_%s %s' % (name, kind)]
        lines += ['distributed_cron_%s%s %d' % (
            name, '{%s="%s"}' % (label, word) if label else '', value)
            for word, value in values.items()]
    return '\n'.join(lines) + '\n'


def overdue(store, now):
    """Seconds by which the most overdue job waits, or run is past its deadline."""
    since = store.query('''SELECT
        (SELECT MIN(next_run_utc) FROM job WHERE run_token IS NULL AND next_run_utc < ?
            AND (active <> 0 OR run_requested <> 0)),
        (SELECT MIN(run_deadline_utc) FROM job WHERE run_deadline_utc < ?)''',
        dc.text_of(now - dc.MINUTE), dc.text_of(now))[0]
    return max([(now - when).total_seconds() for when in map(dc.moment, since) if when],
               default=0)


def counted(request, jobs):
    """What is known of each job: up to which run it was counted, its failures, its last
    success. Kept in a file, so that no scrape reads the whole history; a job has one
    run at a time, so that all before it have been recorded."""
    path = os.path.join(request.config.log_location, 'web.metrics')
    try:
        os.makedirs(request.config.log_location, exist_ok=True)
        with open(path + '.lock', 'a') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                kept = json.loads(dc.read_text(path))
            except ValueError:  # the first time
                kept = {str(job.id): [done(job), 0, 0] for job in jobs
                        if job.last_status == 'Success'}
            seen = {job.id: kept.get(str(job.id)) or [0, 0, 0] for job in jobs}
            count_new(request.store, seen, jobs)
            dc.write_whole(path, json.dumps(seen))
    except OSError as error:
        raise dc.Problem(dc.line_of(error)) from None
    return seen


def done(job):
    """The number of a job's last run that has ended."""
    return job.run_no - (job.run_token is not None)


def count_new(store, seen, jobs):
    """Count, by primary key, the runs that have ended since the last time."""
    new = [job for job in jobs if done(job) > seen[job.id][0]]
    success = EPOCH[store.config.db_engine] % (
        "MAX(CASE status WHEN 'Success' THEN ended_at END)")
    for some in (new[start:start + 200] for start in range(0, len(new), 200)):
        for id, failed, when in store.query(
                '''SELECT job_id, SUM(CASE status WHEN 'Success' THEN 0 ELSE 1 END), %s
                FROM run WHERE %s GROUP BY job_id''' % (success, ' OR '.join(
                    ['job_id = ? AND run_no > ? AND run_no <= ?'] * len(some))),
                *[value for job in some for value in (
                    job.id, seen[job.id][0], done(job))]):
            seen[id][1:] = seen[id][1] + int(failed), max(seen[id][2], int(when or 0))
    for job in jobs:
        seen[job.id][0] = max(seen[job.id][0], done(job))
        if job.last_status == 'Success':
            seen[job.id][2] = max(seen[job.id][2], int(job.ended or 0))
