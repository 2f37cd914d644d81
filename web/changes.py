"""The forms, and what they change: each change of a job is written into web.log."""

import json
import os
import re
from contextlib import contextmanager
from itertools import islice

import distributed_cron as dc

from . import queries
from .answers import HTML, Answer, back, page
from .render import one_line, render
from .views import NUMBER, found_job

PREVIEWED = 5  # times of a schedule
LABELS = {column.name: column.label for column in dc.COLUMNS}
PLANNED = [column for column in dc.COLUMNS if column.name in dc.PLANNED_FROM]
PREFILLED = ('frequency', 'active')  # dc.save_job fills in what is empty
KIND = 'kind'  # a field that is no column: by frequency, or by schedule
NEW = dict.fromkeys(LABELS, '')  # the texts of a new job's form
NEW[KIND] = 'frequency'
for column in dc.COLUMNS:
    if column.name in PREFILLED:
        NEW[column.name] = str(column.default)


# From a job to the texts of a form, and back.


def texts_of(job):
    """A job as the texts of its form."""
    texts = {}
    for column in dc.COLUMNS:
        text = str(getattr(job, column.name) or '')
        if column.type is dc.CLOCK:
            text = re.sub('^(.....):00$', r'\1', text)  # 04:00:00 as 04:00
        texts[column.name] = text
    texts[KIND] = 'frequency' if job.schedule is None else 'schedule'
    return texts


def columns_of(texts, columns=dc.COLUMNS):
    """The texts of a form as columns of a job, and what is wrong, by column.

    What dc.check_job looks at is left to it."""
    values = {}
    wrong = {}
    by_schedule = texts[KIND] == 'schedule'
    for column in columns:
        name = column.name
        text = texts[name]
        if name == 'frequency' and by_schedule:
            continue  # it stays as it was
        if name == 'max_run_time' and not text:
            continue  # dc.save_job chooses one
        problem = problem_of(column, text, by_schedule)
        if problem:
            wrong[name] = problem
        else:
            values[name] = value_of(column, text)
    if not by_schedule:
        values['schedule'] = None
    return values, wrong


def problem_of(column, text, by_schedule):
    """What is wrong with a text as such; '' if nothing."""
    if column.type is dc.MINUTES and not re.fullmatch(NUMBER, text):
        return '%.30r; allowed: a number of minutes from 1' % text
    if column.name == 'schedule' and by_schedule and not text:
        return 'empty; allowed: a cron expression'
    if column.name == 'description' and re.search('[\0-\x1f\x7f]', text):
        return 'control characters; allowed: one line'
    if column.name == 'command' and not text.strip():
        return 'empty; allowed: a command of the shell'
    return ''


def value_of(column, text):
    """A text that has no problem as the value of a column."""
    if column.type is dc.MINUTES:
        return int(text)
    if column.type is dc.ACTIVE:
        return int(bool(text))
    if column.type is dc.TEXT:
        return text
    return text or None


def changed(job, texts, values):
    """Of the values only those that differ, so that what others change meanwhile
    stays."""
    old = texts_of(job)
    new = {name: value for name, value in values.items() if texts[name] != old[name]}
    if texts[KIND] != old[KIND]:
        new['schedule'] = values['schedule']
    return new


# The form and its preview.


def form_page(request, id=None):
    """The form of a job, or of a new one."""
    request.check_right()
    if id is None:
        return show_form(request, None, NEW, {})
    job = found_job(request, id)
    return show_form(request, job, texts_of(job), {})


def show_form(request, job, texts, wrong, status=200):
    """The form with some texts in it, and what is wrong beside its fields."""
    title = 'Edit job %d' % job.id if job else 'Add a job'
    return page(
        request,
        'form',
        title,
        status,
        job=job,
        values=texts,
        wrong=wrong,
        labels=LABELS,
        preview=preview_of(request, job, texts),
    )


def preview_of(request, job, texts):
    """The schedule of a form in words and its next times, or what is wrong with it."""
    store = request.store
    times = []
    values, wrong = columns_of(texts, PLANNED)
    row = job or dc.Job()
    row = row._replace(**{**values, 'active': 1})
    if not wrong:
        try:
            upcoming = dc.upcoming(row, request.now, store.zone)
            times = list(islice(upcoming, PREVIEWED))
        except dc.BadSchedule as error:
            wrong[error.column] = str(error)
    return render(
        'preview',
        request=request,
        job=row,
        times=times,
        wrong=wrong,
        labels=LABELS,
    )


def preview_page(request):
    """The preview alone, for script.js."""
    request.check_right()
    allowed = {column.name: '.{1,255}' for column in PLANNED}
    given = request.query(kind='frequency|schedule', id=NUMBER, **allowed)
    id = given.pop('id')
    job = found_job(request, int(id)) if id else None
    return Answer(200, [HTML], preview_of(request, job, {**NEW, **given}))


# Changes.


def save(request, id=None):
    """Save what a form says, or show the form again: with what is wrong, or because
    only the preview was asked for."""
    form = request.form()
    job = None if id is None else found_job(request, id)
    texts = {name: form.get(name, '').strip() for name in NEW}
    texts['command'] = form.get('command', '').replace('\r\n', '\n')
    values, wrong = columns_of(texts)
    if form.get('action') != 'save':
        return show_form(request, job, texts, wrong)
    if wrong:
        return show_form(request, job, texts, wrong, 422)
    if job is None:
        if not values['description']:
            del values['description']  # the table has a better one
        event = 'add'
    else:
        values = changed(job, texts, values)
        event = 'edit' if values else 'same'
    if values:
        id, wrong = write(request, job, values)
    if wrong:
        return show_form(request, job, texts, wrong, 422)
    return back(request, event, id, '/job/%d' % id)


def write(request, job, values):
    """Write columns of a job, of a new one if it is None. Returns its id, and what is
    wrong, by column, if nothing was written."""
    id = job.id if job else None
    try:
        with audit(request) as log:
            id, _ = dc.save_job(request.store, id, values)
            log(id, differences(job, values))
    except dc.BadJob as problem:
        return id, problem.wrong
    except dc.BadData as problem:
        # A text that this database can't hold, but not which one.
        return id, {'command': str(problem)}
    return id, {}


def act(request, id, action):
    """Do one of dc.ACTIONS to a job."""
    request.form()
    found_job(request, id)
    with audit(request) as log:
        done = dc.act(request.store, action, id)
        if done:
            log(id, action)
    event = action if done else 'idle'
    return back(request, event, id, request.came_from())


def delete_page(request, id):
    """Ask whether a job is to be deleted."""
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
    """Delete a job; web.log then says all that it was."""
    request.form()
    job = found_job(request, id)
    columns = {name: getattr(job, name) for name in LABELS}
    with audit(request) as log:
        request.store.change(dc.ACTIONS['remove'].sql, id=id)
        log(id, 'removed: ' + differences(None, columns))
    return back(request, 'remove', id, '/')


# Their log.


@contextmanager
def audit(request):
    """Change a job, and write that into web.log by the function that this yields.

    Raises Problem, before the change, if nothing can be written there."""
    path = os.path.join(request.config.log_location, 'web.log')
    try:
        open(path, 'ab').close()
    except OSError as error:
        raise dc.Problem(dc.line_of(error)) from None
    address = request.environ.get('REMOTE_ADDR')
    who = '%s@%s' % (request.user or '-', address)
    file = dc.Log(path, one_line(who), request.config.log_max_bytes)

    def log(id, text):
        file.write('job %d: %s' % (id, one_line(text)))

    yield log


def differences(job, values):
    """Which columns change, and from what to what; of a new job, None, only to what."""
    parts = []
    for name, value in values.items():
        text = in_json(value)
        if job is not None:
            text = '%s -> %s' % (in_json(getattr(job, name)), text)
        parts.append('%s %s' % (name, text))
    return ', '.join(parts)


def in_json(value):
    return json.dumps(value, ensure_ascii=False, default=str)
