"""The runs of all jobs, newest first, by result, host, job and time."""

from datetime import timedelta

import distributed_cron as dc

from . import queries
from .answers import page
from .views import NUMBER, PAGE_SIZE, list_link, paged

MOST_RUNS = 10000  # at which a page looks: the newest ones of its time
MOST_JOBS = 20  # whose runs are looked for by words
RESULTS = ('failed', 'success', 'skipped')
SPANS = ('hour', 'night', 'today', 'day', 'week')
HOUR = timedelta(hours=1)
TIME = '[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}'
# The newest runs, of all jobs or of one, without what they wrote; by an index.
OF_ALL = '''SELECT job_id, run_no, ended_at, worker, status FROM run
    WHERE ended_at >= :since AND ended_at < :until
    ORDER BY ended_at DESC LIMIT :most'''
OF_JOB = '''SELECT * FROM (SELECT job_id, run_no, ended_at, worker, status FROM run
    WHERE job_id = %d ORDER BY job_id DESC, run_no DESC LIMIT :each) AS r%d'''
LOOKED = '''(SELECT job_id, run_no, ended_at, CASE WHEN {was_skipped} THEN 'skipped'
    WHEN status = 'Success' THEN 'success' ELSE 'failed' END AS result
    FROM (%s) AS newest WHERE ended_at >= :since AND ended_at < :until AND %s)
    AS looked'''
ONE_PAGE = '''SELECT run.* FROM (SELECT job_id, run_no FROM %s
        WHERE :result IN ('', result)
        ORDER BY ended_at DESC, job_id DESC, run_no DESC LIMIT :size OFFSET :first)
    AS chosen JOIN run ON run.job_id = chosen.job_id AND run.run_no = chosen.run_no
    ORDER BY run.ended_at DESC, run.job_id DESC, run.run_no DESC'''


def runs_page(request):
    """The runs that were chosen, and how many of them had which result."""
    asked = request.query(
        result='|'.join(RESULTS),
        host='.{1,191}',
        job='.{1,200}',
        span='|'.join(SPANS),
        since=TIME,
        until=TIME,
        page=NUMBER,
    )
    number = int(asked.pop('page') or 1)
    store = request.store
    since, until = times_of(asked, request.local_now)
    table, values = looked_at(store, asked, since, until)
    text = 'SELECT result, COUNT(*) FROM %s GROUP BY result' % table
    found = dict(store.query(text, **values))
    total = sum(found.values())
    number, pages = paged(number, found.get(asked['result'], total))
    first = PAGE_SIZE * (number - 1)
    values.update(result=asked['result'], size=PAGE_SIZE, first=first)
    runs = store.query(ONE_PAGE % table, **values)
    ids = {run.job_id for run in runs}
    return page(
        request,
        'runs',
        'Runs',
        values=asked,
        results={result: found.get(result, 0) for result in RESULTS},
        total=total,
        times={'since': since, 'until': until},
        runs=runs,
        jobs={job.id: job for job in queries.jobs_by_id(store, list(ids))},
        link=list_link(request, asked, 'runs'),
        number=number,
        pages=pages,
        most=MOST_RUNS,
    )


def times_of(asked, now):
    """From and until when runs were asked for: local times, None without a limit."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    since, until = {
        '': (None, None),
        'hour': (now - HOUR, None),
        'night': (midnight - 6 * HOUR, midnight + 8 * HOUR),
        'today': (midnight, None),
        'day': (now - dc.DAY, None),
        'week': (now - 7 * dc.DAY, None),
    }[asked['span']]
    since = dc.moment(asked['since']) or since
    until = dc.moment(asked['until']) or until
    return since, until


def looked_at(store, asked, since, until):
    """The runs of some jobs, a host and a time, as a table in SQL, and its values."""
    keys = OF_ALL
    if asked['job']:
        ids = ids_of(store, asked['job']) or [0]
        keys = ' UNION ALL '.join(OF_JOB % (id, id) for id in ids)
    is_chosen = '1 = 1'
    of_host = {}
    if asked['host']:
        is_chosen, of_host = dc.on_host(asked['host'])
    values = {
        'since': dc.text_of(since) or '0001-01-01 00:00:00',
        'until': dc.text_of(until) or '9999-12-31 00:00:00',
        'most': MOST_RUNS,
        'each': MOST_RUNS // MOST_JOBS,
        **of_host,
    }
    return LOOKED % (keys, is_chosen), values


def ids_of(store, text):
    """The jobs that a number or words of their descriptions mean."""
    if text.isdecimal():
        return [int(text[:9])]
    rows = store.query(
        '''SELECT id FROM job WHERE id > :below AND (name = :name
            OR LOWER(description) LIKE LOWER(:words) ESCAPE '!')
        ORDER BY id LIMIT :most''',
        below=queries.not_searched(store),
        name=text,
        words='%%%s%%' % dc.like(text),
        most=MOST_JOBS,
    )
    return [row.id for row in rows]
