"""The application: the pages, and what a form may change. Everything is rendered here;
script.js only adds to it."""
import json
import os
import re
import sys
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import urlencode

import distributed_cron as dc

from . import queries
from .render import (
    HERE,
    Markup,
    badge,
    bars,
    clock,
    duration,
    far,
    fill,
    join,
    kind_of,
    lanes,
)
from .request import TOLD, Refused, Request, clean, throw_away_body

PAGE_SIZE = 50  # rows of a list
MOST_LOG = 65536  # bytes of a log that are shown at once
QUIET = 5  # minutes without a worker, after which something is wrong
HEADERS = [
    ('Content-Security-Policy', "default-src 'none'; style-src 'self'; script-src 'self'; "
     "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
     "frame-ancestors 'none'"),
    ('X-Frame-Options', 'DENY'), ('X-Content-Type-Options', 'nosniff'),
    ('Referrer-Policy', 'same-origin'), ('Cross-Origin-Resource-Policy', 'same-origin'),
    ('Cross-Origin-Opener-Policy', 'same-origin')]
HTML, TEXT = 'text/html; charset=utf-8', 'text/plain; charset=utf-8'
STATIC = {'style.css': 'text/css; charset=utf-8', 'ok.svg': 'image/svg+xml',
          'script.js': 'text/javascript; charset=utf-8', 'failing.svg': 'image/svg+xml'}
DONE = {'added': 'Job %s added.', 'saved': 'Job %s saved.', 'same': 'Nothing to save in '
        'job %s.', 'removed': 'Job %s deleted.', 'enable': 'Job %s enabled.',
        'disable': 'Job %s disabled.', 'run-now': 'Job %s will run now.',
        'stop': 'The run of job %s will be ended.', 'idle': 'Job %s is not running.'}


class Application:
    """The page as a WSGI application, by a configuration file that is read for each
    request. alone: see Request. name: of this host, if not its own."""

    def __init__(self, file, name=None, alone=None):
        self.file, self.name, self.alone = file, name, alone

    def __call__(self, environ, start_response):
        status, headers, body = self.answer(environ)
        throw_away_body(environ)
        if isinstance(body, str):
            body = body.encode('utf-8', 'replace')
        headers += [*HEADERS, ('Content-Length', str(len(body)))]
        if 'Cache-Control' not in dict(headers):
            headers.append(('Cache-Control', 'no-store'))
        start_response('%d %s' % (status, HTTPStatus(status).phrase), headers)
        return [] if environ['REQUEST_METHOD'] == 'HEAD' else [body]

    def answer(self, environ):
        """Status, headers and body; never an exception."""
        request = None
        try:
            request = Request(environ, dc.load_config(self.file, self.name), self.alone)
            status, headers, body = respond(request)
            return status, headers + request.new_cookies, body
        except Refused as refusal:
            problem, status, headers = refusal, refusal.status, refusal.headers
            sentence = refusal.sentence
        except (dc.Away, dc.Again, dc.Problem) as error:
            problem, status, headers = error, 503, [('Retry-After', '10')]
            sentence = ('The database or a file that this page needs is not to be had; '
                        "the web server's error log says why.")
            if isinstance(error, dc.BadConfig):
                sentence, status = "The configuration is wrong; see the error log.", 500
        except Exception as error:
            problem, status, headers = error, 500, []
            sentence = "This page has made a mistake; the web server's error log has it."
        finally:
            if request is not None:
                request.close()
        if status >= 500:
            print('index.cgi: %s' % clean('%s %s: %s' % (
                environ['REQUEST_METHOD'], environ.get('PATH_INFO'),
                problem if isinstance(problem, dc.Problem) else repr(problem))),
                file=sys.stderr, flush=True)
        if request is None or re.fullmatch('/(healthz|metrics|run/.*/log)', request.path):
            return status, [('Content-Type', TEXT), *headers], sentence + '\n'
        return status, [('Content-Type', HTML), *headers], layout(
            request, HTTPStatus(status).phrase, fill('message', text=sentence,
                                                     base=request.base))


def respond(request):
    """Find the page of a path, and have it answer the method."""
    request.check_host()
    for pattern, methods in ROUTES:
        match = re.fullmatch(pattern, request.path)
        if match:
            method = 'GET' if request.method == 'HEAD' else request.method
            if method not in methods:
                allowed = ', '.join(['HEAD'] * ('GET' in methods) + sorted(methods))
                raise Refused(405, 'This address answers to %s.' % allowed,
                              ('Allow', allowed))
            values = [int(value) if value.isdigit() else value for value in match.groups()]
            return methods[method](request, *values)
    raise Refused(404, 'There is no such page.')


def page(request, title, content, failing=None, status=200):
    """A whole page; failing: whether a job is, where that is known already."""
    if failing is None:
        failing = is_failing(queries.counts(request.store, request.now))
    return status, [('Content-Type', HTML)], layout(request, title, content, failing)


def is_failing(counts):
    return bool(counts['error'] + counts['lost'])


def layout(request, title, content, failing=False):
    told, base = '', request.base
    event, _, job = request.cookies.get(TOLD, '').partition('.')
    if event in DONE and re.fullmatch('[0-9]{1,10}', job):
        told = fill('layout', 'told', text=DONE[event] % job)
        request.set_cookie(TOLD, '', '; Max-Age=0')
    version = {name.replace('.', '_'): static_address(base, name) for name in STATIC}
    return fill(
        'layout', 'page', base=base, title=title, content=content, told=told,
        icon=version['failing_svg' if failing else 'ok_svg'], **version,
        now=(request.now - dc.EPOCH) // dc.SECOND if request.opened else '',
        add=fill('layout', 'add', base=base) if request.may_write else '',
        who=request.user or ('this machine' if request.on_loopback else 'no login'),
        right='may change' if request.may_write else 'read only', version=dc.VERSION,
        time='%s, the database’s time' % dc.text_of(request.local_now)
        if request.opened else '')


# The list of jobs.

def list_page(request):
    values = request.query(search_string='(?s).{1,200}', state='|'.join(queries.STATES),
                           sort='|'.join(queries.SORTS), order='asc|desc',
                           page='[1-9][0-9]{0,5}')
    store, now, state = request.store, request.now, values['state']
    counts = queries.counts(store, now, values['search_string'])
    total = counts[state] if state else sum(counts.values())
    pages = max(1, -(-total // PAGE_SIZE))
    number = min(int(values['page'] or 1), pages)
    jobs = queries.jobs(store, now, values['search_string'], state,
                        values['sort'] or 'id', values['order'],
                        PAGE_SIZE * (number - 1), PAGE_SIZE)
    strips = queries.strips(store, [job.id for job in jobs])
    rows = [job_row(request, job, strips[job.id]) for job in jobs]
    here = {name: value for name, value in values.items() if value and name != 'page'}

    def link(**more):
        return request.base + '/?' + urlencode({
            name: value for name, value in {**here, **more}.items() if value})
    content = fill(
        'jobs', 'page', base=request.base, rows=join(rows), search=values['search_string'],
        state=state, sort=values['sort'], order=values['order'], failing=int(
            is_failing(counts)), heads=join(heads(values, link)),
        filters=join(filters(counts, state, link)), pager=pager(number, pages, link),
        none='' if jobs else fill('jobs', 'none', base=request.base), total=total)
    return page(request, 'Jobs', content, is_failing(counts))


def filters(counts, state, link):
    """The counts, each a link to the jobs that are in this state."""
    yield fill('jobs', 'filter', link=link(state=''), badge='all', css='all',
               count=sum(counts.values()), current=current(not state))
    for word, count in counts.items():
        yield fill('jobs', 'filter', link=link(state=word), badge=badge(word),
                   count=count, css='some' if count else 'zero',
                   current=current(word == state))


def current(yes, word='true'):
    return Markup(' aria-current="%s"' % word) if yes else ''


def heads(values, link):
    """The headings of the table, as links that sort by their column."""
    for column, title, sort in HEADS:
        if not sort:
            yield fill('jobs', 'head', column=column, title=title)
            continue
        mine = sort == (values['sort'] or 'id')
        down = mine and values['order'] != 'desc'
        yield fill('jobs', 'sortable', column=column, title=title, sort=sort, link=link(
            sort=sort, order='desc' if down else ''), sorted=Markup(
                ' aria-sort="%scending"' % ('as' if down else 'des')) if mine else '')


HEADS = (('id', 'ID', 'id'), ('status', 'Status', 'state'),
         ('job', 'Job', 'description'), ('schedule', 'Schedule', 'schedule'),
         ('last', 'Last run', 'last_start'), ('result', 'Result', 'last_status'),
         ('next', 'Next run', 'next_run'), ('strip', 'Last 20 runs', None),
         ('actions', 'Actions', None))


def pager(number, pages, link):
    """Links to the other pages of a list."""
    if pages == 1:
        return ''
    near = sorted({1, pages, *range(max(1, number - 2), min(pages, number + 2) + 1)})
    return fill('jobs', 'pager', pages=pages, links=join(
        fill('jobs', 'to_page', link=link(page=one), page=one, current=current(
            one == number, 'page')) for one in near))


def job_row(request, job, runs):
    state = dc.state_of(job, request.now)
    return fill('jobs', 'row', **facts(request, job), state=state, strip=bars(
        request.base, runs, 5, 26, 7, 20), actions=actions(request, job))


def facts(request, job):
    """What is said of a job, in the list and on its own page."""
    words = dc.describe(job._replace(start_anchor=None, stop_anchor=None))
    raw = job.schedule if job.schedule is not None else '%s min' % job.frequency
    window = '%.5s to %.5s' % (job.start_anchor or '00:00', job.stop_anchor or '24:00')
    first_line = job.command.strip().partition('\n')[0]
    return {
        'base': request.base, 'id': job.id, 'command': job.command,
        'description': job.description or '(no description)',
        'short': first_line if first_line == job.command.strip() and len(first_line) < 80
        else first_line[:79] + '…', 'words': words,
        'raw': '' if words == 'every %sutes' % raw else raw,
        'window': window if job.start_anchor or job.stop_anchor else '',
        'last_start': clock(job.last_start, request.local_now) or 'never',
        'last_end': '' if job.run_token else clock(job.last_end, request.local_now),
        'status': job.last_status, 'kind': kind_of(job.last_status)
        if job.last_end else 'never',
        'worker': job.last_worker if job.last_start else '',
        'badge': badge(dc.state_of(job, request.now)), 'next': next_text(request, job)}


def next_text(request, job):
    """When a job runs next; script.js counts it down."""
    when = dc.moment(job.next_run_utc)
    if job.run_token is not None:
        return fill('jobs', 'runs', base=request.base, id=job.id, run=job.run_no)
    if when is None or when == dc.PARKED:
        return 'to be planned' if when is None else 'never'
    return fill('jobs', 'next', far=far((when - request.now).total_seconds()),
                utc=when.isoformat() + 'Z', local=job.next_local,
                at=(when - dc.EPOCH) // dc.SECOND)


def actions(request, job):
    """The buttons of a job, for who may use them."""
    if not request.may_write:
        return ''
    def button(action, title):
        return fill('jobs', 'button', base=request.base, id=job.id, action=action,
                    title=title, name=job.description)
    return fill(
        'jobs', 'actions', base=request.base, id=job.id, csrf=request.token(),
        name=job.description, first=button('stop', 'Stop') if job.run_token is not None
        else button('run-now', 'Run now'), second=button('disable', 'Disable')
        if job.active else button('enable', 'Enable'))


# One job, and its form.

def found_job(request, id):
    job = queries.job(request.store, id)
    if job is None:
        raise Refused(404, 'There is no job %d.' % id)
    return job


def job_page(request, id):
    number = int(request.query(page='[1-9][0-9]{0,5}')['page'] or 1)
    job = found_job(request, id)
    lowest, highest = queries.ends_of_history(request.store, id)
    top = max(job.run_no, highest or 0)
    pages = max(1, -(-(top - (lowest or top) + 1) // PAGE_SIZE))
    high = top - PAGE_SIZE * (min(number, pages) - 1)
    runs = queries.runs(request.store, id, high - PAGE_SIZE + 1, high)
    chart = fill('job', 'chart', bars=bars(request.base, runs[::-1], 10, 96, 14,
                                           max(len(runs), 20)),
                 longest=duration(max(run.duration_ms or 0 for run in runs))) if runs else ''
    content = fill('job', 'page', **facts(request, job), chart=chart, actions=actions(
        request, job), rows=join(run_row(request, run) for run in runs),
        max_run_time=job.max_run_time, active='yes' if job.active else 'no',
        none='' if runs else fill('job', 'none'), runs=job.run_no,
        pager=pager(min(number, pages), pages, lambda page: '%s/job/%d?page=%d' % (
            request.base, id, page)))
    return page(request, job.description or 'job %d' % id, content)


def run_row(request, run):
    lines = (run.output or '').strip().splitlines()
    return fill('job', 'row', base=request.base, job=run.job_id, run=run.run_no,
                start=run.started_at, end=run.ended_at, code=run.exit_code,
                time=duration(run.duration_ms), worker=run.worker,
                badge=badge(kind_of(run.status), run.status),
                output=lines[-1][:120] if lines else '')


FIELDS = ('description', 'command', 'kind', 'frequency', 'schedule', 'start_anchor',
          'stop_anchor', 'max_run_time', 'active')
# Whose field it is, by how dc's messages begin; others are of the schedule.
BLAMED = {'--every': 'frequency', '--max-run-time': 'max_run_time',
          **{name: name for name in FIELDS}}


def values_of(job):
    """A job, or a new one, as the texts of the form."""
    if job is None:
        return dict.fromkeys(FIELDS, '', ) | {
            'kind': 'frequency', 'frequency': '60', 'active': '1'}
    values = {name: getattr(job, name, None) for name in FIELDS}
    values['kind'] = 'frequency' if job.schedule is None else 'schedule'
    for name in ('start_anchor', 'stop_anchor'):
        values[name] = (values[name] or '').removesuffix(':00') if len(
            values[name] or '') > 5 else values[name]
    return {name: '' if value in (None, 0) else str(value)
            for name, value in values.items()}


def columns_of(values):
    """The texts of a form as columns of a job, and what is wrong, by field."""
    columns, wrong = {'active': int(values['active'] == '1')}, {}
    for name in ('description', 'schedule'):
        columns[name] = values[name].strip()
        if re.search('[\0-\x1f\x7f]', columns[name]):
            wrong[name] = '%s: one line of text is allowed' % name
    columns['command'] = values['command'].replace('\r\n', '\n')
    if '\0' in columns['command']:
        wrong['command'] = 'command: no NUL is allowed'
    numbers = ('max_run_time', *['frequency'] * (values['kind'] == 'frequency'))
    for name in numbers:
        text = values[name].strip()
        if re.fullmatch('[0-9]{1,9}', text):
            columns[name] = int(text)
        elif text or name == 'frequency':
            wrong[name] = '%s: %.30r; allowed: a number of minutes' % (name, text)
    if values['kind'] == 'frequency':
        columns['schedule'] = None
    elif values['kind'] != 'schedule' or not columns['schedule']:
        wrong['schedule'] = 'schedule: an expression is needed, or take a frequency'
    for name in ('start_anchor', 'stop_anchor'):
        columns[name] = values[name].strip() or None
    for name, most in dc.LIMITS.items():
        if len(columns[name] or '') > most:
            wrong[name] = '%s: %d characters; allowed: %d' % (
                name, len(columns[name]), most)
    if not columns['command'].strip():
        wrong['command'] = 'command: it is empty'
    return columns, wrong


def blamed(problem):
    """An error of dc, by the field that it is about."""
    word = re.match('[a-z_-]*', str(problem))[0]
    name = BLAMED.get(word, 'schedule')
    return {name: str(problem).replace(word, name, 1) if word in BLAMED else str(problem)}


def form_page(request, id=None):
    if request.why_not:
        raise Refused(403, 'Jobs can be changed by those who may; %s.' % request.why_not)
    job = found_job(request, id) if id else None
    return show_form(request, job, values_of(job), {})


def show_form(request, job, values, wrong, preview='', status=200):
    shown = {name: values[name] for name in FIELDS}
    for name in FIELDS:
        text = wrong.get(name)
        shown[name + '_error'] = fill('form', 'error', name=name, text=text) if text else ''
        shown[name + '_wrong'] = Markup(' aria-invalid="true"') if text else ''
    for kind in ('frequency', 'schedule'):
        shown['by_' + kind] = Markup(' checked') if values['kind'] == kind else ''
    title = 'Edit job %d' % job.id if job else 'Add a job'
    content = fill(
        'form', 'page', base=request.base, title=title, csrf=request.token(),
        here='/job/%d' % job.id if job else '/', id=job.id if job else '',
        preview=preview or preview_of(request, job, values),
        checked=Markup(' checked') if values['active'] == '1' else '', **shown)
    return page(request, title, content, status=status)


def preview_of(request, job, values):
    """The schedule of a form in words, and the next five times."""
    columns, wrong = columns_of({**values, 'command': '-'})
    row = job or dc.row_type(*dc.JOB_COLUMNS)(*[None] * len(dc.JOB_COLUMNS))
    row = row._replace(**{'max_run_time': 1, **columns, 'active': 1})
    try:
        for name in ('frequency', 'schedule'):
            if name in wrong:
                raise dc.BadSchedule(wrong[name])
        if row.schedule is None and not 1 <= row.frequency <= 5256000:
            raise dc.BadSchedule('frequency: allowed: 1 to 5256000 minutes')
        zone, after, times = request.store.zone, request.now, []
        for _ in range(5):
            after = dc.next_run(row, after, after, zone)
            if after == dc.PARKED:
                break
            local = dc.text_of(zone.local(after))
            times.append(fill('form', 'time', local=local, utc=dc.text_of(after), far=far(
                (after - request.now).total_seconds())))
            row = row._replace(last_start=local, claimed_start=local)
    except dc.BadSchedule as problem:
        return fill('form', 'no_preview', text=str(problem))
    return fill('form', 'preview', words=dc.describe(row), times=join(times))


def preview_page(request):
    if request.why_not:
        raise Refused(403, 'A preview is for those who may change jobs.')
    given = request.query(kind='frequency|schedule', frequency='.{1,20}',
                          schedule='.{1,255}', start_anchor='.{1,20}',
                          stop_anchor='.{1,20}', id='[1-9][0-9]{0,9}')
    job = queries.job(request.store, int(given['id'])) if given['id'] else None
    return 200, [('Content-Type', HTML)], preview_of(
        request, job, {**values_of(None), **given})


# Changes.

def save(request, id=None):
    form = request.form()
    values = {name: form.get(name, '') for name in FIELDS}
    job = found_job(request, id) if id else None
    columns, wrong = columns_of(values)
    if form.get('action') != 'save':
        return show_form(request, job, values, wrong)
    changed = columns if job is None else {
        name: value for name, value in columns.items()
        if same_form(name, value) != same_form(name, getattr(job, name))}
    if not columns.get('description') and job is None:
        del changed['description']  # the table has a better one
    if not wrong and not changed:
        return back(request, 'same', id, '/job/%d' % id)
    try:
        if not wrong:
            with audit(request) as log:
                id, _ = dc.save_job(request.store, id, changed)
                log('job %d: %s' % (id, differences(job, changed)))
            return back(request, 'saved' if job else 'added', id, '/job/%d' % id)
    except (dc.BadConfig, dc.BadSchedule, dc.BadData) as problem:
        wrong = blamed(problem)
    return show_form(request, job, values, wrong, status=422)


def same_form(name, value):
    """A time of day with its seconds, however the database says it."""
    return (str(value) + ':00')[:8] if value and name.endswith('_anchor') else value


def differences(job, changed):
    """What changed, from what to what, for web.log."""
    return ', '.join('%s %s' % (name, json.dumps(value, ensure_ascii=False) if job is None
                                else '%s -> %s' % tuple(
        json.dumps(one, ensure_ascii=False) for one in (getattr(job, name), value)))
        for name, value in changed.items())


class audit:
    """A change that is written into web.log; without the log nothing is changed."""

    def __init__(self, request):
        self.request = request
        self.path = os.path.join(request.config.log_location, 'web.log')

    def __enter__(self):
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            open(self.path, 'ab').close()
        except OSError as error:
            raise dc.Problem('%s: %s' % (self.path, error.strerror)) from None
        log = dc.Log(self.path, self.request.who(), self.request.config.log_max_bytes)
        return lambda text: log.write(clean(text))

    def __exit__(self, *_):
        pass


def act(request, id, action):
    """Do one of dc's ACTIONS to a job."""
    if request.form().get('action', action) != action:
        raise Refused(400, 'The form says two different things.')
    found_job(request, id)
    with audit(request) as log:
        done = request.store.change(dc.ACTIONS[action][0], id)
        if done:
            log('job %d: %s' % (id, action))
    return back(request, action if done else 'idle', id, request.came_from())


def delete_page(request, id):
    if request.why_not:
        raise Refused(403, 'Jobs can be deleted by those who may; %s.' % request.why_not)
    job = found_job(request, id)
    lowest, highest = queries.ends_of_history(request.store, id)
    return page(request, 'Delete job %d' % id, fill(
        'delete', 'page', **facts(request, job), csrf=request.token(),
        days=request.config.history_days, runs='no run' if highest is None else
        'up to %d runs' % (highest - lowest + 1), going=fill('delete', 'going')
        if job.run_token else ''))


def delete(request, id):
    request.form()
    job = found_job(request, id)
    with audit(request) as log:
        request.store.change(dc.ACTIONS['remove'][0], id)
        log('job %d: removed: %s' % (id, differences(None, {
            name: getattr(job, name) for name in FIELDS if name != 'kind'})))
    return back(request, 'removed', id, '/')


def back(request, event, id, path):
    """On to a page, which tells what was done."""
    request.set_cookie(TOLD, '%s.%d' % (event, id), '; Max-Age=60')
    return 303, [('Location', request.base + path), ('Content-Type', TEXT)], ''


# A run, and its log.

def run_page(request, id, run_no):
    job, run, live, worker, start, text, offset, here = log_of(request, id, run_no)
    host, file = worker.rpartition('-')[0], request.config.job_log(id)
    going = dc.moment(start) and (request.local_now - dc.moment(start)) // dc.SECOND * 1000
    content = fill(
        'run', 'page', base=request.base, job=id, run=run_no, worker=worker, start=start,
        description=job.description if job else 'a job that was deleted',
        command=job.command if job else '', badge=badge('running' if live else kind_of(
            run.status)), status='It runs.' if live else run.status,
        end='' if live else run.ended_at, code='' if live else run.exit_code,
        due=job.next_run_utc if live else run.due_utc,
        duration=duration(going if live else run.duration_ms), text=text, offset=offset,
        live=int(live), where=fill('run', 'here' if here else 'elsewhere',
                                   host=host or 'an unknown host', file=file),
        actions=actions(request, job) if live else '')
    return page(request, 'Run %d of job %d' % (run_no, id), content)


def log_of(request, id, run_no, offset=None):
    """What a run wrote: its text, the offset in the log behind it, and whether that log
    is on this host. Raises Refused where there is no such run."""
    job, run = queries.job(request.store, id), queries.run(request.store, id, run_no)
    live = job is not None and job.run_token is not None and job.run_no == run_no
    if run is None and not live:
        raise Refused(404, 'The history holds no run %d of job %d.' % (run_no, id))
    worker, start = (job.last_worker, job.last_start) if live else (
        run.worker, run.started_at)
    path = request.config.job_log(id)
    here = worker.rpartition('-')[0] == request.config.name and os.path.exists(path)
    text, end = '' if live else run.output or '', offset or 0
    # The history has the last 4096 bytes: of what is longer the log may have more.
    if here and (live or len(text.encode()) >= 4096):
        try:
            found, end = tail(path, worker, host_time(request, start), None if live else
                              host_time(request, run.ended_at) + 1, offset)
            text = found or text
        except OSError as error:
            text = text or '%s: %s' % (path, error.strerror)
    return job, run, live, worker, start, text, end, here


def host_time(request, local):
    """A local time of the database by this host's clock, as seconds since 1970."""
    skew = dc.time.time() - (request.asked - dc.EPOCH).total_seconds()
    if dc.moment(local) is None:
        return 0
    return (request.store.zone.utc_before(dc.moment(local), request.now)
            - dc.EPOCH).total_seconds() + skew


def tail(path, worker, began, ended, offset):
    """Lines of a job's log that are led by this worker, of a run's time, from an offset
    on; and the offset behind them. A line that is not finished yet goes on next time."""
    lead = ('%s: [' % worker).encode()
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        start = offset if offset and offset <= size else max(
            0, size - MOST_LOG * (1 if ended is None else 32))
        file.seek(max(0, start - 1))
        before, data = file.read(min(1, start)), file.read(MOST_LOG * 32)
    lines = re.findall(b'[^\n]*\n|[^\n]+', data)
    text = b''
    if lines and before not in (b'', b'\n'):
        text = lines.pop(0) if offset and offset <= size else b''
    if lines and not lines[-1].endswith(b'\n') and not (
            lines[-1].startswith(lead) and b'] ' in lines[-1]):
        data = data[:-len(lines.pop())]
    text += b''.join(
        line.partition(b'] ')[2] for line in lines if line.startswith(lead)
        and began - 1 < stamp(line[len(lead):].partition(b']')[0]) <= (
            ended or float('inf')))
    return text[-MOST_LOG:].decode('utf-8', 'replace'), start + len(data)


@lru_cache(10000)
def stamp(text):
    """The time of a line of a log, by this host's clock."""
    try:
        return dc.time.mktime(dc.time.strptime(text.decode()))
    except (ValueError, OverflowError):
        return 0


def log_page(request, id, run_no):
    offset = int(request.query(offset='[0-9]{1,15}')['offset'] or 0)
    _, _, live, _, _, text, end, _ = log_of(request, id, run_no, offset)
    return 200, [('Content-Type', TEXT), ('X-Log-Offset', str(end)),
                 ('X-Run-State', 'running' if live else 'ended')], text


# The hosts.

def hosts_page(request):
    store, most = request.store, 2000
    since = request.local_now - dc.DAY
    runs = queries.lately(store, since, most)
    going = queries.running(store, most)
    hosts = store.query('SELECT * FROM host ORDER BY name')
    mine = {host.name: [] for host in hosts}
    for run in [*runs, *going]:
        mine.setdefault(run.worker.rpartition('-')[0] or '?', []).append(run)
    failed = {name: sum(hasattr(run, 'status') and run.status != 'Success' for run in runs)
              for name, runs in mine.items()}
    rows = [fill('hosts', 'row', name=host.name, seen=host.last_seen, css='quiet' if quiet(
        request, host.last_seen) else '', version=host.version, slots=host.max_tasks,
        running=host.running, skew=host.skew_ms, worker=host.worker, runs=len(
            mine[host.name]), failed=failed[host.name]) for host in hosts]
    content = fill('hosts', 'page', rows=join(rows), base=request.base, lanes=lanes(
        request.base, mine, since, request.local_now), cut=fill('hosts', 'cut', most=most)
        if len(runs) == most else '', none='' if hosts else fill('hosts', 'none'))
    return page(request, 'Hosts', content)


def quiet(request, seen):
    """Whether a host was last seen too long ago."""
    zone, seen = request.store.zone, dc.moment(seen)
    return seen is None or zone.utc_before(seen, request.now) < (
        request.now - QUIET * dc.MINUTE)


# For programs.

def health_page(request):
    try:
        store = request.store
        counts = queries.counts(store, request.now)
        seen = store.query('SELECT MAX(last_seen) FROM host')[0][0]
    except dc.Problem as problem:
        print('index.cgi: %s' % clean(str(problem)), file=sys.stderr, flush=True)
        return 503, [('Content-Type', TEXT)], 'the database is not to be had\n'
    wrong = []
    if counts['overdue']:
        wrong.append('%d jobs are overdue' % counts['overdue'])
    if sum(counts.values()) - counts['disabled'] and quiet(request, seen):
        wrong.append('no worker has been seen for %d minutes' % QUIET)
    return 503 if wrong else 200, [('Content-Type', TEXT)], (
        '; '.join(wrong) or 'ok') + '\n'


def metrics_page(request):
    from .metrics import metrics
    return 200, [('Content-Type', 'text/plain; version=0.0.4; charset=utf-8')], metrics(
        request)


def static_address(base, name):
    """An address that changes with the file, so that it may be kept for ever."""
    about = os.stat(os.path.join(HERE, name))
    return '%s/static/%s?v=%x' % (base, name, about.st_mtime_ns // 1000 + about.st_size)


def static_page(request, name):
    tag = '"%s"' % static_address('', name).partition('=')[2]
    headers = [('Content-Type', STATIC[name]), ('ETag', tag),
               ('Cache-Control', 'public, max-age=31536000, immutable')]
    if tag in request.environ.get('HTTP_IF_NONE_MATCH', ''):
        return 304, headers, b''
    with open(os.path.join(HERE, name), 'rb') as file:
        return 200, headers, file.read()


ID = '([1-9][0-9]{0,8})'
ROUTES = (
    ('/', {'GET': list_page}), ('/job/add', {'GET': form_page, 'POST': save}),
    ('/job/' + ID, {'GET': job_page}),
    ('/job/%s/edit' % ID, {'GET': form_page, 'POST': save}),
    ('/job/%s/delete' % ID, {'GET': delete_page, 'POST': delete}),
    ('/job/%s/(run-now|stop|enable|disable)' % ID, {'POST': act}),
    ('/preview', {'GET': preview_page}), ('/run/%s/%s' % (ID, ID), {'GET': run_page}),
    ('/run/%s/%s/log' % (ID, ID), {'GET': log_page}), ('/hosts', {'GET': hosts_page}),
    ('/healthz', {'GET': health_page}), ('/metrics', {'GET': metrics_page}),
    ('/static/(%s)' % '|'.join(STATIC).replace('.', r'\.'), {'GET': static_page}))
