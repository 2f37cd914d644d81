"""Metrics for Prometheus, in its text format 0.0.4."""
import fcntl
import json
import os
import sys

import distributed_cron as dc

from . import queries

EPOCH = {  # local time of the database, as seconds since 1970
    'sqlite': "CAST(STRFTIME('%%s', %s, 'utc') AS INTEGER)",
    'mysql': 'UNIX_TIMESTAMP(%s)',
    'postgresql': 'EXTRACT(EPOCH FROM CAST(%s AS timestamptz))'}
HELP = {
    'jobs': ('gauge', 'Jobs by state.'),
    'overdue_seconds': ('gauge', 'How long the most overdue job, or run, is overdue.'),
    'job_info': ('gauge', '1, with what people call the job.'),
    'runs_total': ('counter', 'Runs that were claimed, since the job was added; those '
                              'that were given back unstarted count.'),
    'failures_total': ('counter', 'Runs that did not end as Success, as they were first '
                                  'recorded, since this page was first asked.'),
    'last_success_timestamp_seconds': ('gauge', 'When the last run ended as Success.')}


def metrics(request):
    """All of them, as text. Reads the table of jobs, and of the history only what has
    been added since it was last asked."""
    store, now = request.store, request.now
    jobs = store.query('''SELECT id, description, run_no, run_token, last_status, %s AS ended
        FROM job ORDER BY id''' % epoch(store, 'last_end'))
    lines = ['# Of distributed cron %s.' % dc.VERSION]
    lines += metric('jobs', [({'state': state}, count) for state, count in
                             queries.counts(store, now).items()])
    lines += metric('overdue_seconds', [({}, overdue(store, now))])
    lines += metric('job_info', [({'job': job.id, 'description': job.description}, 1)
                                 for job in jobs])
    lines += metric('runs_total', [({'job': job.id}, job.run_no) for job in jobs])
    try:
        seen = counted(request, jobs)
        lines += metric('failures_total', [({'job': job.id}, seen[job.id][1])
                                           for job in jobs])
        lines += metric('last_success_timestamp_seconds', [
            ({'job': job.id}, seen[job.id][2]) for job in jobs if seen[job.id][2]])
    except OSError as error:
        print('index.cgi: metrics: %s' % dc.line_of(error), file=sys.stderr, flush=True)
    return '\n'.join(lines) + '\n'


def metric(name, samples):
    """Lines of one metric: its kind, and (labels, value) for each sample."""
    name, (kind, text) = 'distributed_cron_' + name, HELP[name]
    yield '# HELP %s %s' % (name, text)
    yield '# TYPE %s %s' % (name, kind)
    for labels, value in samples:
        inner = ','.join('%s="%s"' % (label, str(word).replace('\\', r'\\').replace(
            '"', r'\"').replace('\n', r'\n')) for label, word in labels.items())
        yield '%s%s %d' % (name, '{%s}' % inner if inner else '', value)


def epoch(store, column):
    return EPOCH[store.config.db_engine] % column


def overdue(store, now):
    """Seconds by which the most overdue job waits, or run is past its deadline."""
    since = [dc.moment(when) for when in store.query('''SELECT
        (SELECT MIN(next_run_utc) FROM job WHERE run_token IS NULL AND next_run_utc < ?
            AND (active <> 0 OR run_requested <> 0)),
        (SELECT MIN(run_deadline_utc) FROM job WHERE run_deadline_utc < ?)''',
        dc.text_of(now - dc.MINUTE), dc.text_of(now))[0]]
    return max([(now - when).total_seconds() for when in since if when] + [0])


def counted(request, jobs):
    """What is known of each job: up to which run it was counted, its failures, its last
    success. Kept in a file, so that no scrape reads the whole history; a job has one run
    at a time, so that all before it have been recorded."""
    path = os.path.join(request.config.log_location, 'web.metrics')
    os.makedirs(request.config.log_location, exist_ok=True)
    with open(path + '.lock', 'a') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            kept = {int(id): facts for id, facts in json.loads(dc.read_text(path)).items()}
            first = False
        except ValueError:
            kept, first = {}, True
        done = {job.id: job.run_no - (job.run_token is not None) for job in jobs}
        seen = {job.id: kept.get(job.id) or [done[job.id] if first else 0, 0, 0]
                for job in jobs}
        if first:
            old_successes(request.store, seen, jobs)
        count_new(request.store, seen, done)
        for job in jobs:
            if job.last_status == 'Success' and job.ended:
                seen[job.id][2] = max(seen[job.id][2], int(job.ended))
        dc.write_whole(path, json.dumps(seen))
    return seen


def old_successes(store, seen, jobs):
    """At first: when jobs that fail now succeeded last."""
    failing = [job.id for job in jobs if job.last_status.startswith('ERROR')]
    for some in chunks(failing, 200):
        for id, when in store.query(
                '''SELECT job_id, %s FROM run WHERE status = 'Success' AND job_id IN (%s)
                GROUP BY job_id''' % (epoch(store, 'MAX(ended_at)'), dc.marks(some)), *some):
            seen[id][2] = int(when or 0)


def count_new(store, seen, done):
    """Count the runs that have ended since the last time, by primary key."""
    new = [id for id in seen if done[id] > seen[id][0]]
    for some in chunks(new, 200):
        rows = store.query(
            'SELECT job_id, status, %s AS ended FROM run WHERE %s' % (
                epoch(store, 'ended_at'), ' OR '.join(
                    ['job_id = ? AND run_no > ? AND run_no <= ?'] * len(some))),
            *[value for id in some for value in (id, seen[id][0], done[id])])
        for row in rows:
            if row.status != 'Success':
                seen[row.job_id][1] += 1
            else:
                seen[row.job_id][2] = max(seen[row.job_id][2], int(row.ended or 0))
    for id in new:
        seen[id][0] = done[id]


def chunks(items, size):
    for start in range(0, len(items), size):
        yield items[start:start + size]
