"""The forms, and what they change: each change of a job is written into web.log."""

import re
from itertools import islice

import distributed_cron as dc

from . import queries
from .answers import HTML, Answer, back, page
from .render import render
from .views import NUMBER, found_job, refuse_child
from .weblog import audit, differences

PREVIEWED = 5  # times of a schedule
LABELS = {column.name: column.label for column in dc.COLUMNS}
PLANNED = [column for column in dc.COLUMNS if column.name in dc.PLANNED_FROM]
OWN_FIELDS = ('after_job', 'each_host')  # of the newer columns; the form lists the rest
MORE = [column.name for column in dc.SINCE_2 if column.name not in OWN_FIELDS]
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
    if job.after_job is not None:
        texts[KIND] = 'after_job'
    return texts


def columns_of(texts, columns=dc.COLUMNS):
    """The texts of a form as columns of a job, and what is wrong, by column.

    What dc.check_job looks at is left to it."""
    values = {}
    wrong = {}
    kind = texts[KIND]
    for column in columns:
        name = column.name
        text = texts[name]
        if name in ('frequency', 'after_job') and name != kind:
            continue  # it stays as it was
        if name == 'max_run_time' and not text:
            continue  # dc.save_job chooses one
        problem = problem_of(column, text, kind)
        if problem:
            wrong[name] = problem
        else:
            values[name] = value_of(column, text)
    if kind != 'schedule':
        values['schedule'] = None
    return values, wrong


def problem_of(column, text, kind):
    """What is wrong with a text as such; '' if nothing. kind: what KIND says."""
    if column.type is dc.MINUTES and not re.fullmatch(NUMBER, text):
        return '%.30r; allowed: a number of minutes from 1' % text
    if column.name == 'schedule' and kind == 'schedule' and not text:
        return 'empty; allowed: a cron expression'
    if column.name == 'after_job' and not text:
        return 'empty; allowed: the id or the name of a job'
    if column.type is dc.NUMBER and not re.fullmatch('[0-9]{0,9}', text):
        return '%.30r; allowed: a whole number' % text
    if column.name == 'description' and re.search('[\0-\x1f\x7f]', text):
        return 'control characters; allowed: one line'
    if column.name == 'command' and not text.strip():
        return 'empty; allowed: a command of the shell'
    return ''


def value_of(column, text):
    """A text that has no problem as the value of a column."""
    if column.type is dc.MINUTES:
        return int(text)
    if column.type in (dc.ACTIVE, dc.TEMPLATE):
        return int(bool(text))
    if column.type is dc.NUMBER:
        return int(text) if text else column.default
    if column.type is dc.ANOTHER_JOB and text.isdecimal():
        return int(text)
    if column.type is dc.TEXT:
        return text
    return text or None


def changed(job, texts, values):
    """Of the values only those that differ from what the form showed, so that what
    others change meanwhile stays."""
    shown = texts_of(job)
    old = {name: dc.visible(text) for name, text in shown.items()}
    new = {name: value for name, value in values.items() if texts[name] != old[name]}
    if texts[KIND] != old[KIND]:
        new['schedule'] = values['schedule']
    return new


# The form and its preview.


def form_page(request, id=None):
    """The form of a job, or of a new one: a copy of another, with a schedule."""
    request.check_right()
    asked = request.query(copy=NUMBER, schedule='.{1,255}')
    job = None
    texts = NEW
    if id is not None or asked['copy']:
        job = found_job(request, id or int(asked['copy']))
        texts = texts_of(job)
    if id is None:
        job = None
        texts = {**texts, 'name': ''}  # only one job can have it
    else:
        refuse_child(job)
    if asked['schedule']:
        texts = {**texts, KIND: 'schedule', 'schedule': asked['schedule']}
    return show_form(request, job, texts, {})


def show_form(request, job, texts, wrong, status=200):
    """The form with some texts in it, and what is wrong beside its fields."""
    title = 'Edit job %d' % job.id if job else 'Add a job'
    return page(
        request,
        'form',
        title,
        status,
        refresh='',
        job=job,
        values=texts,
        wrong=wrong,
        labels=LABELS,
        more=MORE,
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
    given = request.query(kind='frequency|schedule|after_job', id=NUMBER, **allowed)
    id = given.pop('id')
    job = found_job(request, int(id)) if id else None
    return Answer(200, [HTML], preview_of(request, job, {**NEW, **given}))


# Changes.


def save(request, id=None):
    """Save what a form says, or show the form again: with what is wrong, or because
    only the preview was asked for."""
    form = request.form()
    job = None
    if id is not None:
        job = found_job(request, id)
        refuse_child(job)
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
    asked = 'job %d' % id if job else 'add'
    try:
        with audit(request, '%s: %s' % (asked, differences(job, values))) as outcome:
            id, _ = dc.save_job(request.store, id, values)
            outcome.append('job %d' % id)
    except dc.BadJob as problem:
        return id, problem.wrong
    except dc.BadData as problem:
        # A text that this database can't hold, but not which one.
        return id, {'command': str(problem)}
    return id, {}


def delete_page(request, id):
    """Ask whether a job is to be deleted."""
    request.check_right()
    job = found_job(request, id)
    lowest, highest = queries.ends_of_history(request.store, id)
    return page(
        request,
        'delete',
        'Delete job %d' % id,
        refresh='',
        job=job,
        days=request.config.history_days,
        runs=0 if highest is None else highest - lowest + 1,
    )


def delete(request, id):
    """Delete a job; web.log then says all that it was."""
    request.form()
    job = found_job(request, id)
    columns = {name: getattr(job, name) for name in LABELS}
    asked = 'job %d: remove: %s' % (id, differences(None, columns))
    with audit(request, asked) as outcome:
        dc.act(request.store, 'remove', id)
        outcome.append('job %d' % id)
    return back(request, 'remove', id, '/')
