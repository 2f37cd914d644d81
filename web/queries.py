"""What the pages ask the database. Nothing here changes anything."""

import distributed_cron as dc

from .search import ALL

STATES = (
    'running',
    'overdue',
    'failing',
    'ok',
    'paused',
    'template',
    'disabled',
)
SORTS = (
    'id',
    'state',
    'description',
    'schedule',
    'last_start',
    'last_status',
    'next_run_utc',
)
# With a million jobs no page may cost more than the list: at most so many
MOST_SEARCHED = 100000  # ids are searched, and
MOST_MEASURED = 20000  # jobs stand in the metrics, the newest ones
MOST_COUNTED = 50000  # runs are counted for the page of the hosts
# A worker, HOST-PID, as `HOST-`; and the quarter of an hour, since 1970 on the same
# clock, in which a run has ended.
WORDS = {
    'sqlite': (
        "RTRIM(worker, '0123456789')",
        "CAST(strftime('%s', ended_at) AS int) / 900",
    ),
    'mysql': (
        "TRIM(TRAILING SUBSTRING_INDEX(worker, '-', -1) FROM worker)",
        "(TO_SECONDS(ended_at) - TO_SECONDS('1970-01-01')) DIV 900",
    ),
    'postgresql': (
        "RTRIM(worker, '0123456789')",
        'CAST(EXTRACT(EPOCH FROM ended_at) AS bigint) / 900',
    ),
}
QUARTER = 15 * dc.MINUTE

# The jobs with their states. The CASE is dc.state_of in SQL; a test holds the two
# together. :now and :late, a minute before it, are UTC.
FOUND = '''(SELECT job.*, CASE
    WHEN run_token IS NOT NULL AND run_deadline_utc < :now THEN 'overdue'
    WHEN run_token IS NOT NULL THEN 'running'
    WHEN active = 0 AND run_requested = 0 THEN 'disabled'
    WHEN each_host = 1 THEN 'template'
    WHEN paused_until_utc > :now AND run_requested = 0 THEN 'paused'
    WHEN next_run_utc < :late THEN 'overdue'
    WHEN {is_failing} THEN 'failing'
    ELSE 'ok' END AS state
    FROM job WHERE %s) AS found'''
TROUBLE_FIRST = '''CASE state WHEN 'overdue' THEN 0 WHEN 'failing' THEN 1
    WHEN 'running' THEN 2 WHEN 'ok' THEN 3 ELSE 4 END,'''
# The columns of a run but its output.
RUN = 'job_id, run_no, started_at, ended_at, duration_ms, worker, status'


# Jobs.


def not_searched(store):
    """The highest id at which no search looks; 0 where it looks at all jobs."""
    newest = store.query('SELECT MAX(id) FROM job')[0][0] or 0
    return max(0, newest - MOST_SEARCHED)


def found(now, search):
    """The jobs that a Search finds, as a table in SQL, and its values."""
    values = {
        'now': dc.text_of(now),
        'late': dc.text_of(now - dc.MINUTE),
    }
    return FOUND % search.which, {**values, **search.values}


def counts(store, now, search=ALL):
    """How many jobs are in each state, of those that a search finds."""
    table, values = found(now, search)
    text = 'SELECT state, COUNT(*) FROM %s GROUP BY state' % table
    there = dict(store.query(text, **values))
    return {state: there.get(state, 0) for state in STATES}


def jobs(store, now, search, state, sort, order, first, size):
    """A page of the list, in order: unless another one is asked for, trouble first and
    then what runs next. Jobs without the value come last; the one that is meant, first.
    """
    table, values = found(now, search)
    where = 'state = :state' if state else '1 = 1'
    rank = '' if sort else TROUBLE_FIRST
    sort = sort or 'next_run_utc'
    text = '''SELECT id FROM %s WHERE %s
        ORDER BY CASE WHEN id = :meant THEN 0 ELSE 1 END, %s
            CASE WHEN %s IS NULL THEN 1 ELSE 0 END, %s %s, id
        LIMIT :size OFFSET :first'''
    rows = store.query(
        text % (table, where, rank, sort, sort, order or 'ASC'),
        state=state,
        meant=search.first,
        size=size,
        first=first,
        **values,
    )
    ids = [row.id for row in rows]
    there = {row.id: row for row in jobs_by_id(store, ids)}
    return [there[id] for id in ids if id in there]


def jobs_by_id(store, ids):
    """Rows of job, with next_run_utc as the database's local time too."""
    if not ids:
        return []
    local = store.dialect.pieces['to_local'].replace(':when', 'next_run_utc')
    text = 'SELECT job.*, %s AS next_local FROM job WHERE id IN (:ids)'
    return store.query(text % local, ids=ids)


def next_job(store, now):
    """The job that runs next, None where nothing is planned."""
    text = '''SELECT id, name, description, next_run_utc FROM job
        WHERE run_token IS NULL AND next_run_utc >= :now AND next_run_utc < :parked
        AND active = 1 AND each_host = 0 ORDER BY {by_time} LIMIT 1'''
    rows = store.query(text, now=dc.text_of(now), parked=dc.text_of(dc.PARKED))
    return rows[0] if rows else None


def last_ends(store):
    """What the metrics need of each job."""
    text = '''SELECT id, run_no, last_status, last_end FROM job
        ORDER BY id DESC LIMIT :most'''
    return store.query(text, most=MOST_MEASURED)[::-1]


def most_overdue(store, now):
    """Seconds by which the most overdue job waits, or run is past its deadline."""
    since = store.query(
        '''SELECT
        (SELECT MIN(next_run_utc) FROM job WHERE run_token IS NULL
            AND next_run_utc < :late AND (active <> 0 OR run_requested <> 0)),
        (SELECT MIN(run_deadline_utc) FROM job WHERE run_deadline_utc < :now)''',
        late=dc.text_of(now - dc.MINUTE),
        now=dc.text_of(now),
    )[0]
    most = 0
    for when in map(dc.moment, since):
        if when:
            most = max(most, (now - when).total_seconds())
    return most


# Runs.


def strips(store, ids, count=20):
    """The last runs of each of some jobs, oldest first: a few rows by primary key for
    each job, no matter how much the history holds."""
    last = {id: [] for id in ids}
    one = '''SELECT * FROM (SELECT %s FROM run WHERE job_id = %%d
        ORDER BY job_id DESC, run_no DESC LIMIT %d) AS r%%d''' % (RUN, count)
    rows = for_each(store, ids, one)
    for row in sorted(rows, key=lambda row: row.run_no):
        last[row.job_id].append(row)
    return last


def for_each(store, ids, one):
    """The rows of a query for each of some ids, in one statement."""
    if not ids:
        return []
    return store.query(' UNION ALL '.join(one % (id, id) for id in ids))


def ends_of_history(store, id):
    """The lowest and the highest run number that is kept of a job, or None twice."""
    text = '''SELECT (SELECT MIN(run_no) FROM run WHERE job_id = :id),
        (SELECT MAX(run_no) FROM run WHERE job_id = :id)'''
    return store.query(text, id=id)[0]


def outcomes(store, id):
    """Of the last runs of a job, at most 1000: how many there are, how many of them
    succeeded, and when the last of these ended."""
    text = '''SELECT COUNT(*), COUNT(good), MAX(good) FROM
        (SELECT CASE WHEN status = 'Success' THEN ended_at END AS good FROM run
        WHERE job_id = :id AND {ran} ORDER BY job_id DESC, run_no DESC LIMIT 1000)
        AS last'''
    return store.query(text, id=id)[0]


def beside(store, id, run_no):
    """The numbers of the runs of a job before and after one, or None."""
    text = '''SELECT
        (SELECT MAX(run_no) FROM run WHERE job_id = :id AND run_no < :run_no),
        (SELECT MIN(run_no) FROM run WHERE job_id = :id AND run_no > :run_no)'''
    return store.query(text, id=id, run_no=run_no)[0]


def runs(store, id, lowest, highest):
    """Runs of a job by number, newest first."""
    text = '''SELECT * FROM run WHERE job_id = :id
        AND run_no BETWEEN :lowest AND :highest ORDER BY run_no DESC'''
    return store.query(text, id=id, lowest=lowest, highest=highest)


def failures(store, since):
    """How many runs of each job have failed after a local time, by its id."""
    text = '''SELECT job_id, COUNT(*) FROM run WHERE ended_at >= :since
        AND status LIKE 'ERROR%' GROUP BY job_id'''
    return dict(store.query(text, since=dc.text_of(since)))


def skips(store, since):
    """How many times jobs were skipped after a local time, by why."""
    text = '''SELECT CASE WHEN status LIKE '%still ran' THEN 'still ran'
            WHEN status LIKE '%paused by%' THEN 'paused' ELSE 'too late' END, COUNT(*)
        FROM run WHERE ended_at >= :since AND {was_skipped} GROUP BY 1'''
    return dict(store.query(text, since=dc.text_of(since)))


def successes(store, ids):
    """When each of some jobs last had a run that succeeded: a local time, by its id."""
    one = '''SELECT * FROM (SELECT job_id, ended_at FROM run WHERE job_id = %d
        AND status = 'Success' ORDER BY job_id DESC, run_no DESC LIMIT 1) AS r%d'''
    ends = {}
    for start in range(0, len(ids), 100):
        rows = for_each(store, ids[start : start + 100], one)
        ends.update(dict(rows))
    return ends


# Hosts.


def hosts(store):
    return store.query('SELECT * FROM host ORDER BY name')


def span_counted(store, now, spans):
    """The first of some spans of time before a local time in which at most MOST_COUNTED
    runs have ended, or the last: to count more would take too long."""
    rows = store.query(
        'SELECT ended_at FROM run ORDER BY ended_at DESC LIMIT 1 OFFSET :most',
        most=MOST_COUNTED,
    )
    first = dc.moment(rows[0].ended_at) if rows else None
    for span in spans:
        if first is None or first < now - span:
            break
    return span


def runs_by_host(store, since):
    """How many runs have ended after a local time, as (host, beginning of a quarter of
    an hour as local time, kind, how many)."""
    text = '''SELECT %s AS host, %s AS quarter,
        CASE WHEN SUBSTR(status, 1, 11) = 'ERROR: lost' THEN 'lost'
            WHEN {failed} THEN 'error' ELSE 'success' END AS kind, COUNT(*) AS runs
        FROM run WHERE ended_at >= :since AND {ran} GROUP BY 1, 2, 3'''
    words = WORDS[store.config.db_engine]
    counted = []
    for row in store.query(text % words, since=dc.text_of(since)):
        if row.quarter is not None:  # SQLite takes any text for a time
            since_1970 = row.quarter * QUARTER
            host = dc.host_of(row.host)
            counted.append((host, dc.EPOCH + since_1970, row.kind, row.runs))
    return counted
