"""The application: its pages, and what a form may change. Everything is rendered here;
script.js only adds to it."""
import json
import os
import re
import sys
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import urlencode

import distributed_cron as dc

from . import queries
from .logs import written
from .render import HERE, render
from .request import TOLD, Refused, Request, clean, throw_away_body

PAGE_SIZE, MOST_BARS = 50, 2000  # rows of a list; runs in the picture of the hosts
QUIET = 5 * dc.MINUTE  # without a worker, after which something is wrong
HEADERS = [
    ('Content-Security-Policy', "default-src 'none'; style-src 'self'; script-src "
     "'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
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
        body = body.encode('utf-8', 'replace') if isinstance(body, str) else body
        kept = [] if 'Cache-Control' in dict(headers) else [('Cache-Control', 'no-store')]
        start_response('%d %s' % (status, HTTPStatus(status).phrase), [
            *headers, *kept, *HEADERS, ('Content-Length', str(len(body)))])
        return [] if environ['REQUEST_METHOD'] == 'HEAD' else [body]

    def answer(self, environ):
        """Status, headers and body; never an exception."""
        request = None
        try:
            request = Request(environ, dc.load_config(self.file, self.name), self.alone)
            status, headers, body = respond(request)
            return status, headers + request.new_cookies, body
        except Exception as error:
            refusal = refusal_of(error)
        finally:
            if request is not None:
                request.close()
        if refusal.status >= 500:
            print('index.cgi: %s' % clean('%s %s: %s' % (
                environ['REQUEST_METHOD'], environ.get('PATH_INFO'), refusal.cause)),
                file=sys.stderr, flush=True)
        kind, body = TEXT, refusal.sentence + '\n'
        if request and not re.fullmatch('/(healthz|metrics|run/.*/log)', request.path):
            kind, body = HTML, layout(request, HTTPStatus(refusal.status).phrase, render(
                'message', text=refusal.sentence, base=request.base))
        return refusal.status, [('Content-Type', kind), *refusal.headers], body


def refusal_of(error):
    """What people are told of an error; its cause goes to the web server's log only."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, dc.BadConfig):
        refusal = Refused(500, 'The configuration is wrong; the error log says where.')
    elif isinstance(error, dc.Problem):
        refusal = Refused(503, 'The database, or a file that this page needs, is not to '
                               'be had; the error log says why.', ('Retry-After', '10'))
    else:
        refusal = Refused(500, 'This page has made a mistake; the error log has it.')
    refusal.cause = str(error) if isinstance(error, dc.Problem) else repr(error)
    return refusal


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
            return methods[method](request, *(
                int(value) if value.isdigit() else value for value in match.groups()))
    raise Refused(404, 'There is no such page.')


def page(request, template, title, status=200, failing=None, **values):
    """A whole page by a template; failing: whether a job is, where that is known."""
    if failing is None:
        failing = is_failing(queries.counts(request.store, request.now))
    content = render(template, request=request, base=request.base, title=title,
                     failing=failing, **values)
    return status, [('Content-Type', HTML)], layout(request, title, content, failing)


def is_failing(counts):
    return bool(counts['error'] + counts['lost'])


def layout(request, title, content, failing=False):
    event, _, job = request.cookies.get(TOLD, '').partition('.')
    told = event in DONE and re.fullmatch('[0-9]{1,10}', job) and DONE[event] % job
    if told:
        request.set_cookie(TOLD, '', '; Max-Age=0')
    return render('layout', request=request, base=request.base, title=title, told=told,
                  content=content, failing=failing,
                  static=lambda name: request.base + static_address(name))


# Jobs.

def list_page(request):
    values = request.query(search_string='(?s).{1,200}', state='|'.join(queries.STATES),
                           sort='|'.join(queries.SORTS), order='asc|desc',
                           page='[1-9][0-9]{0,5}')
    store, now, state = request.store, request.now, values['state']
    counts = queries.counts(store, now, values['search_string'])
    total = counts[state] if state else sum(counts.values())
    pages = max(1, -(-total // PAGE_SIZE))
    number = min(int(values.pop('page') or 1), pages)
    jobs = queries.jobs(store, now, *values.values(), first=PAGE_SIZE * (number - 1),
                        size=PAGE_SIZE)

    def link(**more):
        return request.base + '/?' + urlencode({
            name: value for name, value in {**values, **more}.items() if value})
    return page(request, 'jobs', 'Jobs', failing=is_failing(counts), values=values,
                counts=counts, total=total, jobs=jobs, link=link, number=number,
                pages=pages, strips=queries.strips(store, [job.id for job in jobs]))


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
    number = min(number, pages)
    high = top - PAGE_SIZE * (number - 1)
    return page(request, 'job', job.description or 'job %d' % id, job=job, pages=pages,
                number=number, link=lambda page: '%s/job/%d?page=%d' % (
                    request.base, id, page),
                runs=queries.runs(request.store, id, high - PAGE_SIZE + 1, high))


# The form of a job.

FIELDS = ('description', 'command', 'kind', 'frequency', 'schedule', 'start_anchor',
          'stop_anchor', 'max_run_time', 'active')
# Whose field it is, by how dc's messages begin; all others are about the schedule.
BLAMED = {'--every': 'frequency', '--max-run-time': 'max_run_time',
          **{name: name for name in FIELDS}}


def values_of(job):
    """A job, or a new one, as the texts of the form."""
    if job is None:
        return {**dict.fromkeys(FIELDS, ''), 'kind': 'frequency', 'frequency': '60',
                'active': '1'}
    values = {name: str(getattr(job, name, None) or '') for name in FIELDS}
    for name in ('start_anchor', 'stop_anchor'):
        values[name] = re.sub(':00$', '', values[name]) if len(
            values[name]) > 5 else values[name]
    return {**values, 'kind': 'frequency' if job.schedule is None else 'schedule'}


def columns_of(values):
    """The texts of a form as columns of a job, and what is wrong, by field. What dc
    looks at itself is left to it."""
    columns, wrong = {
        'description': values['description'].strip(), 'active': int(bool(values['active'])),
        'command': values['command'].replace('\r\n', '\n'),
        'schedule': values['schedule'].strip() if values['kind'] == 'schedule' else None,
        'start_anchor': values['start_anchor'].strip() or None,
        'stop_anchor': values['stop_anchor'].strip() or None}, {}
    for name in ('frequency', 'max_run_time'):
        needed = name == 'frequency' and columns['schedule'] is None
        text = values[name].strip()
        if re.fullmatch('[1-9][0-9]{0,8}', text) and (needed or name != 'frequency'):
            columns[name] = int(text)
        elif needed or text and name != 'frequency':
            wrong[name] = '%s %.30r; allowed: a number of minutes from 1' % (name, text)
    for name in ('description', 'schedule'):
        if re.search('[\0-\x1f\x7f]', columns[name] or ''):
            wrong[name] = '%s: more than one line' % name
    if columns['schedule'] == '':
        wrong['schedule'] = 'schedule: empty; allowed: a cron expression'
    if not columns['command'].strip():
        wrong['command'] = 'command: empty'
    return columns, wrong


def form_page(request, id=None):
    request.check_right()
    job = found_job(request, id) if id else None
    return show_form(request, job, values_of(job), {})


def show_form(request, job, values, wrong, status=200):
    title = 'Edit job %d' % job.id if job else 'Add a job'
    return page(request, 'form', title, status, job=job, values=values, wrong=wrong,
                preview=preview_of(request, job, values))


def preview_of(request, job, values):
    """The schedule of a form in words, and the next five times; or what is wrong."""
    zone = request.store.zone
    columns, wrong = columns_of({**values, 'command': '-', 'max_run_time': '1'})
    row = job or dc.row_type(*dc.JOB_COLUMNS)(*[None] * len(dc.JOB_COLUMNS))
    row, times, after = row._replace(**{**columns, 'active': 1}), [], request.now
    problem = ' '.join(wrong.values())
    try:
        while not problem and len(times) < 5:
            after = dc.next_run(row, after, after, zone)
            if after == dc.PARKED:
                break
            times.append((zone.local(after), after))
            start = dc.text_of(zone.local(after))
            row = row._replace(last_start=start, claimed_start=start)
    except dc.BadSchedule as error:
        problem = str(error)
    return render('preview', request=request, times=times, problem=problem,
                  words='' if problem else dc.describe(row))


def preview_page(request):
    request.check_right()
    given = request.query(kind='frequency|schedule', frequency='.{1,20}',
                          schedule='.{1,255}', start_anchor='.{1,20}',
                          stop_anchor='.{1,20}', id='[1-9][0-9]{0,8}')
    job = queries.job(request.store, int(given['id'] or 0))
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
    if job:  # only what changes, so that what others change meanwhile stays
        columns = {name: value for name, value in columns.items()
                   if seconds(name, value) != seconds(name, getattr(job, name))}
    elif not columns['description']:
        del columns['description']  # the table has a better one
    if not wrong and not columns:
        return back(request, 'same', id, '/job/%d' % id)
    try:
        if not wrong:
            with audit(request) as log:
                id, _ = dc.save_job(request.store, id, columns)
                log(id, differences(job, columns))
            return back(request, 'saved' if job else 'added', id, '/job/%d' % id)
    except (dc.BadConfig, dc.BadSchedule, dc.BadData) as problem:
        field = BLAMED.get(re.match('[a-z_-]*', str(problem))[0], 'schedule')
        wrong[field] = re.sub('^--[a-z-]+', field, str(problem))
    return show_form(request, job, values, wrong, 422)


def seconds(name, value):
    """A time of day with its seconds, however it was typed; other values as they are."""
    return (str(value) + ':00')[:8] if value and name.endswith('_anchor') else value


def differences(job, columns):
    """What changes, from what to what."""
    def said(value):
        return json.dumps(value, ensure_ascii=False, default=str)
    return ', '.join('%s %s%s' % (name, '%s -> ' % said(getattr(job, name)) if job else '',
                                  said(value)) for name, value in columns.items())


@contextmanager
def audit(request):
    """A change that is written into web.log; where that can't be, nothing is changed."""
    path = os.path.join(request.config.log_location, 'web.log')
    try:
        os.makedirs(request.config.log_location, exist_ok=True)
        open(path, 'ab').close()
    except OSError as error:
        raise dc.Problem(dc.line_of(error)) from None
    log = dc.Log(path, request.who(), request.config.log_max_bytes)
    yield lambda id, text: log.write('job %d: %s' % (id, clean(text)))


def act(request, id, action):
    """Do one of dc's ACTIONS to a job."""
    request.form()
    found_job(request, id)
    with audit(request) as log:
        done = request.store.change(dc.ACTIONS[action][0], id)
        if done:
            log(id, action)
    return back(request, action if done else 'idle', id, request.came_from())


def delete_page(request, id):
    request.check_right()
    job = found_job(request, id)
    lowest, highest = queries.ends_of_history(request.store, id)
    return page(request, 'delete', 'Delete job %d' % id, job=job,
                days=request.config.history_days,
                runs=0 if highest is None else highest - lowest + 1)


def delete(request, id):
    request.form()
    job = found_job(request, id)
    with audit(request) as log:
        request.store.change(dc.ACTIONS['remove'][0], id)
        log(id, 'removed: ' + differences(None, {
            name: getattr(job, name) for name in FIELDS if name != 'kind'}))
    return back(request, 'removed', id, '/')


def back(request, event, id, path):
    """On to a page, which tells what was done."""
    request.set_cookie(TOLD, '%s.%d' % (event, id), '; Max-Age=60')
    return 303, [('Location', request.base + path), ('Content-Type', TEXT)], ''


# Runs and hosts.

def found_run(request, id, run_no):
    """A run, and its job if it is there still. One that goes on has the status
    'running', and no row in the history yet."""
    job, run = queries.job(request.store, id), queries.run(request.store, id, run_no)
    if job and job.run_token is not None and job.run_no == run_no:
        start = dc.moment(job.last_start) or request.local_now
        run = dc.row_type(*dc.RUN_COLUMNS)(
            id, run_no, job.next_run_utc, job.last_start, None,
            (request.local_now - start) // dc.SECOND * 1000, job.last_worker, 'running',
            None, '')
    if run is None:
        raise Refused(404, 'The history holds no run %d of job %d.' % (run_no, id))
    return job, run


def run_page(request, id, run_no):
    job, run = found_run(request, id, run_no)
    text, offset, here = written(request, run)
    return page(request, 'run', 'Run %d of job %d' % (run_no, id), job=job, run=run,
                text=text, offset=offset, here=here, file=request.config.job_log(id))


def log_page(request, id, run_no):
    offset = int(request.query(offset='[0-9]{1,15}')['offset'] or 0)
    _, run = found_run(request, id, run_no)
    text, offset, _ = written(request, run, offset)
    return 200, [('Content-Type', TEXT), ('X-Log-Offset', str(offset)), (
        'X-Run-State', 'running' if run.status == 'running' else 'ended')], text


def hosts_page(request):
    store, now = request.store, request.local_now
    since, hour = now - dc.DAY, now.replace(minute=0, second=0, microsecond=0)
    lately = queries.lately(store, since, MOST_BARS)
    hosts = store.query('SELECT * FROM host ORDER BY name')
    runs = {host.name: [] for host in hosts}
    for run in [*lately, *queries.running(store, MOST_BARS)]:
        runs.setdefault(run.worker.rpartition('-')[0] or '?', []).append(run)

    def place(when, wide):
        when = dc.moment(when) or now if isinstance(when, (str, type(None))) else when
        return round(min(1, max(0, (when - since) / dc.DAY)) * wide, 1)
    return page(request, 'hosts', 'Hosts', hosts=hosts, runs=runs, place=place,
                hours=[hour - ago * 60 * dc.MINUTE for ago in range(23)
                       if (hour.hour - ago) % 3 == 0],
                cut=MOST_BARS if len(lately) == MOST_BARS else 0,
                quiet=lambda seen: is_quiet(request, seen))


def is_quiet(request, seen):
    """Whether a worker was last seen, by the database's local time, too long ago."""
    seen = dc.moment(seen)
    return seen is None or request.store.zone.utc_before(
        seen, request.now) < request.now - QUIET


# For programs.

def health_page(request):
    counts = queries.counts(request.store, request.now)
    wrong, seen = [], request.store.query('SELECT MAX(last_seen) FROM host')[0][0]
    if counts['overdue']:
        wrong.append('overdue jobs: %d' % counts['overdue'])
    if sum(counts.values()) > counts['disabled'] and is_quiet(request, seen):
        wrong.append('no worker has been seen for %d minutes' % (QUIET // dc.MINUTE))
    return 503 if wrong else 200, [('Content-Type', TEXT)], (
        '; '.join(wrong) or 'ok') + '\n'


def metrics_page(request):
    from .metrics import metrics
    return 200, [('Content-Type', 'text/plain; version=0.0.4; charset=utf-8')], metrics(
        request)


def static_address(name):
    """An address that changes with the file, so that it may be kept for ever."""
    about = os.stat(os.path.join(HERE, name))
    return '/static/%s?v=%x' % (name, about.st_mtime_ns // 1000 + about.st_size)


def static_page(request, name):
    headers = [('ETag', '"%s"' % static_address(name).partition('=')[2]),
               ('Cache-Control', 'public, max-age=31536000, immutable')]
    if headers[0][1] in request.environ.get('HTTP_IF_NONE_MATCH', ''):
        return 304, headers, b''
    with open(os.path.join(HERE, name), 'rb') as file:
        return 200, [('Content-Type', STATIC[name]), *headers], file.read()


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
