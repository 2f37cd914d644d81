"""What the pages ask the database. Nothing here changes anything."""

import distributed_cron as dc

# dc.state_of in SQL; a test holds both together. Its values, :now and :late, are UTC times.
STATE = '''CASE
    WHEN run_token IS NOT NULL AND run_deadline_utc < :now THEN 'overdue'
    WHEN run_token IS NOT NULL THEN 'running'
    WHEN active = 0 AND run_requested = 0 THEN 'disabled'
    WHEN next_run_utc < :late THEN 'overdue'
    WHEN SUBSTR(last_status, 1, 11) = 'ERROR: lost' THEN 'lost'
    WHEN SUBSTR(last_status, 1, 5) = 'ERROR' THEN 'error'
    ELSE 'not due' END'''
STATES = ('running', 'overdue', 'error', 'lost', 'not due', 'disabled')
SORTS = (
    'id',
    'state',
    'description',
    'schedule',
    'last_start',
    'last_status',
    'next_run_utc',
)
SEARCHED = ('description', 'command', 'schedule', 'last_status', 'last_worker')
RUN = 'job_id, run_no, started_at, ended_at, duration_ms, worker, status'


def found(now, search):
    """The jobs that a search finds, with their states: SQL and its arguments."""
    values = {'now': dc.text_of(now), 'late': dc.text_of(now - dc.MINUTE)}
    where = ' OR '.join("LOWER(%s) LIKE :search ESCAPE '!'" % name for name in SEARCHED)
    if search:
        for sign in '!%_':
            search = search.replace(sign, '!' + sign)
        values['search'] = '%%%s%%' % search.lower()
    return '(SELECT job.*, %s AS state FROM job WHERE %s) AS found' % (
        STATE,
        where if search else '1 = 1',
    ), values


def counts(store, now, search=''):
    """How many jobs are in each state."""
    jobs, values = found(now, search)
    there = dict(
        store.query('SELECT state, COUNT(*) FROM %s GROUP BY state' % jobs, **values)
    )
    return {state: there.get(state, 0) for state in STATES}


def jobs(store, now, search, state, sort, order, first, size):
    """A page of the list, in order; where there is no value comes last."""
    text, values = found(now, search)
    sort = sort or 'id'
    ids = [
        row.id
        for row in store.query(
            '''SELECT id FROM %s WHERE :state = '' OR state = :state
            ORDER BY CASE WHEN %s IS NULL THEN 1 ELSE 0 END, %s %s, id
            LIMIT :size OFFSET :first'''
            % (text, sort, sort, order or 'ASC'),
            state=state,
            size=size,
            first=first,
            **values,
        )
    ]
    rows = {row.id: row for row in jobs_by_id(store, ids)}
    return [rows[id] for id in ids if id in rows]


def jobs_by_id(store, ids):
    """Rows of job, with next_run_utc as the database's local time too."""
    local = store.dialect.pieces['to_local'].replace(':when', 'next_run_utc')
    return ids and store.query(
        'SELECT job.*, %s AS next_local FROM job WHERE id IN (:ids)' % local,
        ids=ids,
    )


def strips(store, ids, count=20):
    """The last runs of each of some jobs, oldest first: a few rows by primary key for
    each job, whatever the history holds."""
    last = {id: [] for id in ids}
    one = (
        'SELECT * FROM (SELECT %s FROM run WHERE job_id = %%d ORDER BY job_id DESC, '
        'run_no DESC LIMIT %d) AS r%%d' % (RUN, count)
    )
    rows = ids and store.query(' UNION ALL '.join(one % (id, id) for id in ids))
    for row in sorted(rows, key=lambda row: row.run_no):
        last[row.job_id].append(row)
    return last


def ends_of_history(store, id):
    """The lowest and the highest run number that is kept of a job, or None twice."""
    return store.query(
        '''SELECT (SELECT MIN(run_no) FROM run WHERE job_id = :id),
        (SELECT MAX(run_no) FROM run WHERE job_id = :id)''',
        id=id,
    )[0]


def runs(store, id, lowest, highest):
    """Runs of a job by number, newest first."""
    return store.query(
        '''SELECT * FROM run WHERE job_id = :id AND run_no BETWEEN :lowest AND :highest
        ORDER BY run_no DESC''',
        id=id,
        lowest=lowest,
        highest=highest,
    )


def lately(store, since, most):
    """The last runs of all jobs that ended after a local time; and those that go on."""
    return store.query(
        'SELECT %s FROM run WHERE ended_at >= :since ORDER BY ended_at DESC LIMIT :most'
        % RUN,
        since=dc.text_of(since),
        most=most,
    ), store.query(
        '''SELECT id AS job_id, run_no, last_start AS started_at, {local} AS ended_at,
        last_worker AS worker, 'running' AS status FROM job WHERE run_token IS NOT NULL
        ORDER BY run_token LIMIT :most''',
        most=most,
    )


def failures(store, since):
    """How many runs of each job have failed after a local time."""
    return dict(
        store.query(
            """SELECT job_id, COUNT(*) FROM run WHERE ended_at >= :since
        AND status <> 'Success' GROUP BY job_id""",
            since=dc.text_of(since),
        )
    )


def successes(store, ids):
    """When each of some jobs last had a run that succeeded, as local time."""
    one = """SELECT * FROM (SELECT job_id, ended_at FROM run WHERE job_id = %d
        AND status = 'Success' ORDER BY job_id DESC, run_no DESC LIMIT 1) AS r%d"""
    return dict(
        row
        for start in range(0, len(ids), 100)
        for row in store.query(
            ' UNION ALL '.join(one % (id, id) for id in ids[start : start + 100])
        )
    )
