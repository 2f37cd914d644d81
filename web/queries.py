"""What the pages ask the database. Nothing here changes anything."""
import distributed_cron as dc

# dc.state_of in SQL; the tests hold both together. Its two marks are the time, UTC.
STATE = '''CASE
    WHEN run_token IS NOT NULL AND run_deadline_utc < ? THEN 'overdue'
    WHEN run_token IS NOT NULL THEN 'running'
    WHEN active = 0 AND run_requested = 0 THEN 'disabled'
    WHEN next_run_utc < ? THEN 'overdue'
    WHEN SUBSTR(last_status, 1, 11) = 'ERROR: lost' THEN 'lost'
    WHEN SUBSTR(last_status, 1, 5) = 'ERROR' THEN 'error'
    ELSE 'not due' END'''
STATES = ('running', 'overdue', 'error', 'lost', 'not due', 'disabled')
SORTS = {'id': 'id', 'state': 'state', 'description': 'description',
         'schedule': 'schedule', 'last_start': 'last_start', 'last_end': 'last_end',
         'last_status': 'last_status', 'last_worker': 'last_worker',
         'next_run': 'next_run_utc'}


def states(now, search):
    """The jobs that a search finds, with their states: SQL and its arguments."""
    like = '%%%s%%' % ''.join('!' + sign if sign in '!%_' else sign
                              for sign in search.lower())
    where, args = '1 = 1', []
    if search:
        texts = ('description', 'command', 'schedule', 'last_status', 'last_worker')
        where = ' OR '.join("LOWER(%s) LIKE ? ESCAPE '!'" % text for text in texts)
        args = [like] * len(texts)
        if search.isascii() and search.isdigit() and len(search) < 10:
            where, args = where + ' OR id = ?', [*args, int(search)]
    return ('(SELECT job.*, %s AS state FROM job WHERE %s) AS found' % (STATE, where),
            [dc.text_of(now), dc.text_of(now - dc.MINUTE), *args])


def counts(store, now, search=''):
    """How many jobs are in each state."""
    found, args = states(now, search)
    there = dict(store.query(
        'SELECT state, COUNT(*) FROM %s GROUP BY state' % found, *args))
    return {state: there.get(state, 0) for state in STATES}


def jobs(store, now, search, state, sort, order, first, size):
    """A page of the list: rows of job with `next_local`, in order."""
    found, args = states(now, search)
    if state:
        found, args = found + ' WHERE state = ?', [*args, state]
    column = SORTS[sort or 'id']
    ids = [row.id for row in store.query(
        'SELECT id FROM %s ORDER BY CASE WHEN %s IS NULL THEN 1 ELSE 0 END, %s %s, id '
        'LIMIT ? OFFSET ?' % (found, column, column, 'DESC' if order == 'desc' else 'ASC'),
        *args, size, first)]
    rows = {row.id: row for row in store.query(
        'SELECT job.*, %s AS next_local FROM job WHERE id IN (%s)' % (
            local(store, 'next_run_utc'), dc.marks(ids)), *ids)} if ids else {}
    return [rows[id] for id in ids if id in rows]


def local(store, column):
    """SQL for a UTC column as the database's local time."""
    return store.dialect.pieces['to_local'].replace('?', column)


def job(store, id):
    """A row of job with `next_local`, or None."""
    return next(iter(store.query('SELECT job.*, %s AS next_local FROM job WHERE id = ?'
                                 % local(store, 'next_run_utc'), id)), None)


SHORT = 'job_id, run_no, started_at, ended_at, duration_ms, worker, status, exit_code'


def strips(store, ids, count=20):
    """The last runs of each of some jobs, oldest first: a few rows by primary key for
    each job, whatever the history holds."""
    found = {id: [] for id in ids}
    one = ('SELECT * FROM (SELECT %s FROM run WHERE job_id = ? ORDER BY job_id DESC, '
           'run_no DESC LIMIT %d) AS r%%d' % (SHORT, count))
    if ids:
        for row in store.query(' UNION ALL '.join(
                one % index for index in range(len(ids))), *ids):
            found[row.job_id].append(row)
    return {id: sorted(rows, key=lambda row: row.run_no) for id, rows in found.items()}


def ends_of_history(store, id):
    """The lowest and the highest run number that is kept of a job, or None twice."""
    return store.query('''SELECT (SELECT MIN(run_no) FROM run WHERE job_id = ?),
        (SELECT MAX(run_no) FROM run WHERE job_id = ?)''', id, id)[0]


def runs(store, id, lowest, highest):
    """Runs of a job by number, newest first."""
    return store.query('''SELECT * FROM run WHERE job_id = ? AND run_no BETWEEN ? AND ?
        ORDER BY run_no DESC''', id, lowest, highest)


def run(store, id, run_no):
    """One row of the history, or None."""
    return next(iter(runs(store, id, run_no, run_no)), None)


def lately(store, since, most):
    """The last runs of all jobs that ended after a local time, newest first."""
    return store.query('SELECT %s FROM run WHERE ended_at >= ? ORDER BY ended_at DESC '
                       'LIMIT ?' % SHORT, dc.text_of(since), most)


def running(store, most):
    """The runs that go on."""
    return store.query('''SELECT id AS job_id, run_no, last_start AS started_at,
        {local} AS ended_at, last_worker AS worker, 'running' AS status FROM job
        WHERE run_token IS NOT NULL ORDER BY run_token LIMIT ?''', most)
