"""The application: its pages, and what a form may change. Everything is rendered here;
script.js only adds to it."""

import json
import os
import re
import sys
import time
from contextlib import contextmanager, suppress
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import urlencode

import distributed_cron as dc

from . import queries
from .render import HERE, render
from .request import TOLD, Refused, Request, throw_away_body

ROOT = os.path.dirname(HERE)

PAGE_SIZE, MOST_BARS = 50, 2000  # rows of a list; runs in the picture of the hosts
MOST_LOG = 65536  # bytes of a log that are shown at once
NUMBER = '[1-9][0-9]{0,8}'
QUIET = 5 * dc.MINUTE  # without a worker, after which something is wrong
HEADERS = [
    (
        'Content-Security-Policy',
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'",
    ),
    ('X-Frame-Options', 'DENY'),
    ('X-Content-Type-Options', 'nosniff'),
    ('Referrer-Policy', 'same-origin'),
    ('Cross-Origin-Resource-Policy', 'same-origin'),
    ('Cross-Origin-Opener-Policy', 'same-origin'),
]
HTML, TEXT = (
    ('Content-Type', 'text/%s; charset=utf-8' % kind) for kind in ('html', 'plain')
)
STATIC = {
    'style.css': 'text/css; charset=utf-8',
    'ok.svg': 'image/svg+xml',
    'script.js': 'text/javascript; charset=utf-8',
    'failing.svg': 'image/svg+xml',
}
DONE = {
    **{name: action[2] for name, action in dc.ACTIONS.items()},
    'add': 'added',
    'edit': 'saved',
    'same': 'is as it was',
    'idle': 'is not running',
}


class Application:
    """The page as a WSGI application, by a configuration file that is read for each
    request. alone: see Request. name: of this host, if not its own."""

    def __init__(self, file, name=None, alone=None):
        self.file, self.name, self.alone = file, name, alone

    def __call__(self, environ, start_response):
        status, headers, body = self.answer(environ)
        throw_away_body(environ)
        body = body.encode('utf-8', 'replace') if isinstance(body, str) else body
        if 'Cache-Control' not in dict(headers):
            headers = [*headers, ('Cache-Control', 'no-store')]
        start_response(
            '%d %s' % (status, HTTPStatus(status).phrase),
            [*headers, *HEADERS, ('Content-Length', str(len(body)))],
        )
        return [] if environ['REQUEST_METHOD'] == 'HEAD' else [body]

    def answer(self, environ):
        """Status, headers and body; never an exception."""
        request = None
        try:
            request = Request(environ, dc.load_config(self.file, self.name), self.alone)
            status, headers, body = respond(request)
            return status, headers + request.new_cookies, body
        except Exception as error:
            refused = refusal_of(error)
        finally:
            if request and request.opened:
                request.opened.close()
        if refused.cause:
            print(
                'index.cgi: %s'
                % clean(
                    '%s %s: %s'
                    % (
                        environ['REQUEST_METHOD'],
                        environ.get('PATH_INFO'),
                        refused.cause,
                    )
                ),
                file=sys.stderr,
                flush=True,
            )
        if request and not re.fullmatch('/(healthz|metrics|run/.*/log)', request.path):
            return layout(
                request,
                HTTPStatus(refused.status).phrase,
                render('message', text=refused.sentence, base=request.base),
                refused.status,
                headers=refused.headers,
            )
        return refused.status, [TEXT, *refused.headers], refused.sentence + '\n'


def refusal_of(error):
    """What people are told of an error; its cause is for the web server's log only."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, dc.Problem) and not isinstance(error, dc.BadConfig):
        return Refused(
            503,
            'The database, or a file of this page, is not to be had; '
            'the error log says why.',
            ('Retry-After', '10'),
            cause=error,
        )
    cause = error if isinstance(error, dc.Problem) else repr(error)
    return Refused(
        500,
        'The configuration, or this page, is wrong; the error log says more.',
        cause=cause,
    )


def clean(text):
    """Text for one line of a log: no control characters, no line ends."""
    return re.sub('[\0-\x1f\x7f-\x9f\u2028\u2029]+', ' ', text)


def respond(request):
    """Find the page of a path, and have it answer the method."""
    request.check_host()
    for pattern, methods in ROUTES:
        match = re.fullmatch(pattern, request.path)
        if match:
            method = 'GET' if request.method == 'HEAD' else request.method
            if method not in methods:
                allowed = ', '.join(['HEAD'] * ('GET' in methods) + sorted(methods))
                raise Refused(
                    405, 'This address answers to %s.' % allowed, ('Allow', allowed)
                )
            return methods[method](
                request,
                *(int(value) if value.isdigit() else value for value in match.groups()),
            )
    raise Refused(404, 'There is no such page.')


def page(request, template, title, status=200, counts=None, **values):
    """A whole page by a template. Its icon says whether a job is failing."""
    counts = counts or queries.counts(request.store, request.now)
    values.update(
        request=request,
        base=request.base,
        title=title,
        counts=counts,
        failing=bool(counts['error'] + counts['lost']),
    )
    return layout(request, title, render(template, **values), status, values['failing'])


def layout(request, title, content, status, failing=False, headers=()):
    event, _, job = request.cookies.get(TOLD, '').partition('.')
    told = (
        event in DONE
        and re.fullmatch('[0-9]{1,10}', job)
        and ('Job %s %s.' % (job, DONE[event]))
    )
    if told:
        request.set_cookie(TOLD, '', '; Max-Age=0')
    return (
        status,
        [HTML, *headers],
        render(
            'layout',
            request=request,
            base=request.base,
            title=title,
            told=told,
            content=content,
            failing=failing,
            static=lambda name: request.base + static_address(name),
        ),
    )


# Jobs.


def list_page(request):
    values = request.query(
        search_string='(?s).{1,200}',
        state='|'.join(queries.STATES),
        sort='|'.join(queries.SORTS),
        order='asc|desc',
        page=NUMBER,
    )
    number = int(values.pop('page') or 1)
    counts = queries.counts(request.store, request.now, values['search_string'])
    total = counts[values['state']] if values['state'] else sum(counts.values())
    pages = max(1, -(-total // PAGE_SIZE))
    number = min(number, pages)
    jobs = queries.jobs(
        request.store,
        request.now,
        *values.values(),
        first=PAGE_SIZE * (number - 1),
        size=PAGE_SIZE,
    )

    def link(**more):
        return (
            request.base
            + '/?'
            + urlencode(
                {name: value for name, value in {**values, **more}.items() if value}
            )
        )

    return page(
        request,
        'jobs',
        'Jobs',
        counts=counts,
        values=values,
        total=total,
        jobs=jobs,
        link=link,
        number=number,
        pages=pages,
        strips=queries.strips(request.store, [job.id for job in jobs]),
    )


def found_job(request, id):
    jobs = queries.jobs_by_id(request.store, [id])
    if not jobs:
        raise Refused(404, 'There is no job %d.' % id)
    return jobs[0]


def job_page(request, id):
    number = int(request.query(page=NUMBER)['page'] or 1)
    job = found_job(request, id)
    lowest, highest = queries.ends_of_history(request.store, id)
    top = max(job.run_no, highest or 0)
    pages = max(1, -(-(top - (lowest or top) + 1) // PAGE_SIZE))
    number = min(number, pages)
    high = top - PAGE_SIZE * (number - 1)
    return page(
        request,
        'job',
        job.description or 'job %d' % id,
        job=job,
        pages=pages,
        number=number,
        link=lambda page: '%s/job/%d?page=%d' % (request.base, id, page),
        runs=queries.runs(request.store, id, high - PAGE_SIZE + 1, high),
    )


# The form of a job.

FIELDS = {
    'description': '',
    'command': '',
    'kind': 'frequency',
    'frequency': '60',
    'schedule': '',
    'start_anchor': '',
    'stop_anchor': '',
    'max_run_time': '',
    'active': '1',
}  # and what a new job has in them


def values_of(job):
    """A job as the texts of the form."""
    values = {name: str(getattr(job, name, None) or '') for name in FIELDS}
    for name in ('start_anchor', 'stop_anchor'):  # 04:00:00 as 04:00
        values[name] = re.sub('^(.....):00$', r'\1', values[name])
    return {**values, 'kind': 'frequency' if job.schedule is None else 'schedule'}


def columns_of(values):
    """The texts of a form as columns of a job, and what is wrong, by field. What dc
    looks at itself is left to it."""
    by_time, wrong = values['kind'] == 'schedule', {}
    columns = {name: values[name] or None for name in ('start_anchor', 'stop_anchor')}
    columns.update(
        active=int(bool(values['active'])),
        description=values['description'],
        command=values['command'],
        schedule=values['schedule'] if by_time else None,
    )
    for name in ['max_run_time'] + ['frequency'] * (not by_time):
        if re.fullmatch('[1-9][0-9]{0,8}', values[name]):
            columns[name] = int(values[name])
        elif values[name] or name == 'frequency':
            wrong[name] = '%s %.30r; allowed: a number of minutes from 1' % (
                name,
                values[name],
            )
    if by_time and not columns['schedule']:
        wrong['schedule'] = 'schedule: empty; allowed: a cron expression'
    if re.search('[\0-\x1f\x7f]', columns['description']):
        wrong['description'] = 'description: allowed: one line'
    if not columns['command'].strip():
        wrong['command'] = 'command: empty'
    return columns, wrong


def form_page(request, id=None):
    request.check_right()
    job = found_job(request, id) if id else None
    return show_form(request, job, values_of(job) if job else FIELDS, {})


def show_form(request, job, values, wrong, status=200):
    return page(
        request,
        'form',
        'Edit job %d' % job.id if job else 'Add a job',
        status,
        job=job,
        values=values,
        wrong=wrong,
        preview=preview_of(request, job, values),
    )


def preview_of(request, job, values):
    """The schedule of a form in words, and the next five times; or what is wrong."""
    store, times, after = request.store, [], request.now
    columns, wrong = columns_of(
        {**values, 'command': '-', 'description': '', 'max_run_time': '1'}
    )
    row = job or dc.Job()
    row = row._replace(**{**columns, 'active': 1})
    try:
        while not wrong and len(times) < 5:
            after = dc.next_run(row, after, after, store.zone)
            if after == dc.PARKED:
                break
            start = store.zone.local(after)
            times.append((start, after))
            row = row._replace(
                last_start=dc.text_of(start), claimed_start=dc.text_of(start)
            )
    except dc.BadSchedule as error:
        wrong['schedule'] = error
    return render('preview', request=request, job=row, times=times, wrong=wrong)


def preview_page(request):
    request.check_right()
    given = request.query(
        kind='frequency|schedule',
        frequency='.{1,20}',
        schedule='.{1,255}',
        start_anchor='.{1,20}',
        stop_anchor='.{1,20}',
        id=NUMBER,
    )
    job = found_job(request, int(given['id'])) if given['id'] else None
    return 200, [HTML], preview_of(request, job, {**FIELDS, **given})


# Changes.


def save(request, id=None):
    form = request.form()
    values = {name: form.get(name, '').strip() for name in FIELDS}
    values['command'] = form.get('command', '').replace('\r\n', '\n')
    job = found_job(request, id) if id else None
    columns, wrong = columns_of(values)
    if form.get('action') != 'save':
        return show_form(request, job, values, wrong)
    if job:  # only what changes, so that what others change meanwhile stays
        old = values_of(job)
        columns = {
            name: value
            for name, value in columns.items()
            if values[name] != old[name]
            or name == 'schedule'
            and values['kind'] != old['kind']
        }
    elif not columns['description']:
        del columns['description']  # the table has a better one
    try:
        if not wrong and columns:
            with audit(request) as log:
                id, _ = dc.save_job(request.store, id, columns)
                log(id, differences(job, columns))
    except (dc.BadConfig, dc.BadSchedule, dc.BadData) as problem:
        text = (
            str(problem)
            .replace('--every', 'frequency')
            .replace('--max-run-time', 'max_run_time')
        )
        field = re.match('[a-z_]*', text)[0]
        wrong[field if field in FIELDS else 'schedule'] = text
    if wrong:
        return show_form(request, job, values, wrong, 422)
    event = 'add' if not job else 'edit' if columns else 'same'
    return back(request, event, id, '/job/%d' % id)


def differences(job, columns):
    """What changes, from what to what."""

    def said(value):
        return json.dumps(value, ensure_ascii=False, default=str)

    return ', '.join(
        '%s %s%s'
        % (name, '%s -> ' % said(getattr(job, name)) if job else '', said(value))
        for name, value in columns.items()
    )


@contextmanager
def audit(request):
    """A change that is written into web.log; without a log nothing is changed."""
    path = os.path.join(request.config.log_location, 'web.log')
    try:
        open(path, 'ab').close()
    except OSError as error:
        raise dc.Problem(dc.line_of(error)) from None
    log = dc.Log(
        path,
        clean('%s@%s' % (request.user or '-', request.environ.get('REMOTE_ADDR'))),
        request.config.log_max_bytes,
    )
    yield lambda id, text: log.write('job %d: %s' % (id, clean(text)))


def act(request, id, action):
    """Do one of dc's ACTIONS to a job."""
    request.form()
    found_job(request, id)
    with audit(request) as log:
        done = request.store.change(dc.ACTIONS[action][0], id=id)
        if done:
            log(id, action)
    return back(request, action if done else 'idle', id, request.came_from())


def delete_page(request, id):
    request.check_right()
    job = found_job(request, id)
    lowest, highest = queries.ends_of_history(request.store, id)
    return page(
        request,
        'delete',
        'Delete job %d' % id,
        job=job,
        days=request.config.history_days,
        runs=0 if highest is None else highest - lowest + 1,
    )


def delete(request, id):
    request.form()
    job = found_job(request, id)
    with audit(request) as log:
        request.store.change(dc.ACTIONS['remove'][0], id=id)
        log(
            id,
            'removed: '
            + differences(
                None, {name: getattr(job, name) for name in FIELDS if name != 'kind'}
            ),
        )
    return back(request, 'remove', id, '/')


def back(request, event, id, path):
    """On to a page, which tells what was done."""
    request.set_cookie(TOLD, '%s.%d' % (event, id), '; Max-Age=60')
    return 303, [('Location', request.base + path), TEXT], ''


# Runs and hosts.


def found_run(request, id, run_no):
    """A run, and its job if it is there still. One that goes on has the status
    'running', and no row in the history yet."""
    runs = queries.runs(request.store, id, run_no, run_no)
    job = next(iter(queries.jobs_by_id(request.store, [id])), None)
    if job and job.run_token is not None and job.run_no == run_no:
        start = dc.moment(job.last_start) or request.local_now
        runs = [
            dc.row_type(*dc.RUN_COLUMNS)(
                id,
                run_no,
                job.next_run_utc,
                job.last_start,
                None,
                (request.local_now - start) // dc.SECOND * 1000,
                job.last_worker,
                'running',
                None,
                '',
            )
        ]
    if not runs:
        raise Refused(404, 'The history holds no run %d of job %d.' % (run_no, id))
    return job, runs[0]


def run_page(request, id, run_no):
    job, run = found_run(request, id, run_no)
    text, offset, here = written(request, run)
    return page(
        request,
        'run',
        'Run %d of job %d' % (run_no, id),
        job=job,
        run=run,
        text=text,
        offset=offset,
        here=here,
        file=request.config.job_log(id),
    )


def log_page(request, id, run_no):
    offset = int(request.query(offset='[0-9]{1,15}')['offset'] or 0)
    _, run = found_run(request, id, run_no)
    text, offset, _ = written(request, run, offset)
    return (
        200,
        [
            TEXT,
            ('X-Log-Offset', str(offset)),
            ('X-Run-State', 'running' if run.status == 'running' else 'ended'),
        ],
        text,
    )


def written(request, run, offset=0):
    """What a run wrote, from an offset in its log on: the text, the offset behind it,
    and whether the log is on this host."""
    path = request.config.job_log(run.job_id)
    here = run.worker.rpartition('-')[0] == request.config.name and os.access(
        path, os.R_OK
    )
    text, live = run.output or '', run.status == 'running'
    # The history has the last 4096 bytes: of what is longer the log has more.
    if here and dc.moment(run.started_at) and (live or len(text.encode()) >= 4096):
        utc = request.store.zone.utc_before(dc.moment(run.started_at), request.now)
        begin = time.time() - (request.asked - utc).total_seconds()  # by this clock
        end = float('inf') if live else begin + (run.duration_ms or 0) / 1000
        found, offset = tail(path, offset, '%s: [' % run.worker, begin - 1, end + 1)
        text = found if live else found or text
    return text, offset, here


def tail(path, offset, lead, begin, end):
    """The lines of a log that are led by a worker and of a time, from an offset on, or
    of its end; and the offset behind them."""
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        known = 0 < offset <= size  # else the log is a new one
        start = offset if known else max(0, size - 32 * MOST_LOG)
        file.seek(max(0, start - 1))
        middle, data = start > 0 and file.read(1) != b'\n', file.read(32 * MOST_LOG)
    lines = re.findall(b'[^\n]*\n|[^\n]+', data)
    first = lines.pop(0) if middle and lines else b''
    mine = [first * known]  # the rest of a line that was shown in part
    for line in lines:
        match = re.match(re.escape(lead.encode()) + rb'([^]]*)\] ', line)
        if match and begin < stamp(match[1]) <= end:
            mine.append(line[match.end() :])
        elif not line.endswith(b'\n') and not match:
            data = data[: -len(line)]  # not whole yet: next time
    return b''.join(mine)[-MOST_LOG:].decode('utf-8', 'replace'), start + len(data)


@lru_cache(10000)
def stamp(text):
    """The time of a line of a log, in seconds since 1970."""
    with suppress(ValueError, OverflowError):
        return time.mktime(time.strptime(text.decode()))
    return 0


def hosts_page(request):
    store, now = request.store, request.local_now
    since, hour = now - dc.DAY, now.replace(minute=0, second=0, microsecond=0)
    ended, running = queries.lately(store, since, MOST_BARS)
    hosts = store.query('SELECT * FROM host ORDER BY name')
    runs = {host.name: [] for host in hosts}
    for run in ended + running:
        runs.setdefault(run.worker.rpartition('-')[0] or '?', []).append(run)
    return page(
        request,
        'hosts',
        'Hosts',
        hosts=hosts,
        runs=runs,
        share=lambda when: min(1, max(0, (when - since) / dc.DAY)),
        hours=[
            hour - ago * 60 * dc.MINUTE
            for ago in range(23)
            if (hour.hour - ago) % 3 == 0
        ],
        cut=MOST_BARS if len(ended) == MOST_BARS else 0,
        quiet=lambda seen: is_quiet(request, seen),
    )


def is_quiet(request, seen):
    """Whether a worker was last seen, by the database's local time, too long ago."""
    seen = dc.moment(seen)
    return (
        seen is None
        or request.store.zone.utc_before(seen, request.now) < request.now - QUIET
    )


# For programs.


def health_page(request):
    counts = queries.counts(request.store, request.now)
    wrong, seen = [], request.store.query('SELECT MAX(last_seen) FROM host')[0][0]
    if counts['overdue']:
        wrong.append('overdue jobs: %d' % counts['overdue'])
    if sum(counts.values()) > counts['disabled'] and is_quiet(request, seen):
        wrong.append('no worker has been seen for %d minutes' % (QUIET // dc.MINUTE))
    return 503 if wrong else 200, [TEXT], ('; '.join(wrong) or 'ok') + '\n'


def metrics_page(request):
    from .metrics import metrics

    return (
        200,
        [('Content-Type', 'text/plain; version=0.0.4; charset=utf-8')],
        metrics(request),
    )


def static_address(name):
    """An address that changes with the file, so that it may be kept for ever."""
    about = os.stat(os.path.join(HERE, name))
    return '/static/%s?v=%x' % (name, about.st_mtime_ns // 1000 + about.st_size)


def static_page(request, name):
    headers = [
        ('ETag', '"%s"' % static_address(name).partition('=')[2]),
        ('Cache-Control', 'public, max-age=31536000, immutable'),
    ]
    if headers[0][1] in request.environ.get('HTTP_IF_NONE_MATCH', ''):
        return 304, headers, b''
    with open(os.path.join(HERE, name), 'rb') as file:
        return 200, [('Content-Type', STATIC[name]), *headers], file.read()


ID = '(%s)' % NUMBER
ROUTES = (
    ('/', {'GET': list_page}),
    ('/job/add', {'GET': form_page, 'POST': save}),
    ('/job/' + ID, {'GET': job_page}),
    ('/job/%s/edit' % ID, {'GET': form_page, 'POST': save}),
    ('/job/%s/delete' % ID, {'GET': delete_page, 'POST': delete}),
    ('/job/%s/(run-now|stop|enable|disable)' % ID, {'POST': act}),
    ('/preview', {'GET': preview_page}),
    ('/run/%s/%s' % (ID, ID), {'GET': run_page}),
    ('/run/%s/%s/log' % (ID, ID), {'GET': log_page}),
    ('/hosts', {'GET': hosts_page}),
    ('/healthz', {'GET': health_page}),
    ('/metrics', {'GET': metrics_page}),
    ('/static/(%s)' % '|'.join(STATIC).replace('.', r'\.'), {'GET': static_page}),
)
