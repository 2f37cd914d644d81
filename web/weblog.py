"""web.log: who changed what on this page, written down before it is changed."""

import errno
import json
import os
import re
import sys
import syslog
import time
from collections import namedtuple
from contextlib import contextmanager, suppress

import distributed_cron as dc

from .render import one_line
from .request import Refused

MOST_TOLD = 4000  # characters of a change that syslog gets
MOST_READ = 262144  # bytes of the file, from its end, that a job's page looks at
MOST_SHOWN = 20  # changes of a job
# As note() writes it. A user may hold an @, an address does not.
LINE = re.compile(
    r'^(.*?)@[^@\s]*: \[([^]]*)\] (asked|done|failed) ([0-9a-f]{8}): (.*)$',
    re.MULTILINE,
)
UNKNOWN = ('', 'it is not known whether it was made')

# A change of a job. user: - without a login; time: of this host; text: what was asked
# for; came: what came of it, if not that.
Change = namedtuple('Change', 'user time text came')


@contextmanager
def audit(request, text):
    """Change a job inside this: web.log says before what is asked for, and afterwards
    what came of it, which is to be appended to the list that this yields.

    Raises Refused, before the change, if nothing can be written there."""
    number = os.urandom(4).hex()  # by which the two lines are found again
    try:
        note(request, 'asked %s: %s' % (number, text))
    except OSError as error:
        raise Refused(
            503,
            'Nothing was changed, because web.log can not be written; '
            'the error log says why.',
            cause=dc.line_of(error),
        ) from None
    outcome = []
    word = 'failed'
    try:
        yield outcome
        word = 'done'
    except Exception as error:
        outcome.append(str(error))
        raise
    finally:
        note_outcome(request, '%s %s: %s' % (word, number, '; '.join(outcome)))


def note_outcome(request, text):
    """Write what came of a change; it is made already, so no error may hide that."""
    try:
        note(request, text)
    except OSError as error:
        print('index.cgi: %s' % dc.line_of(error), file=sys.stderr, flush=True)


def note(request, text):
    """Write a line into web.log, down to the disk, and to syslog. Raises OSError."""
    user = request.user or '-'
    address = request.environ.get('REMOTE_ADDR')
    who = '%s@%s' % (user, address)
    line = '%s: [%s] %s' % (who, time.ctime(), text)
    path = path_of(request)
    append_safely(path, one_line(line) + '\n')
    line = '%s: %s' % (who, text)
    tell_syslog(one_line(line))


def path_of(request):
    return os.path.join(request.config.log_location, 'web.log')


def tell_syslog(line):
    line = line[:MOST_TOLD]
    data = line.encode('utf-8', 'replace')
    syslog.openlog('distributed_cron_web', syslog.LOG_PID, syslog.LOG_AUTHPRIV)
    syslog.syslog(data.decode())


def append_safely(path, text):
    """Append to a file, all of it, down to the disk. Raises OSError."""
    data = text.encode('utf-8', 'replace')
    with open(path, 'ab', buffering=0, opener=opener) as file:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.fsync(file)


def opener(path, flags):
    """For open(): no link, and nothing that waits for whoever is at its other end."""
    return dc.no_link(path, flags | os.O_NONBLOCK)


def differences(job, values):
    """Which columns change, and from what to what; of a new job, None, only to what."""
    parts = []
    for name, value in values.items():
        text = in_json(value)
        if job is not None:
            old = in_json(getattr(job, name))
            text = '%s -> %s' % (old, text)
        parts.append('%s %s' % (name, text))
    return ', '.join(parts)


def in_json(value):
    return json.dumps(value, ensure_ascii=False, default=str)


# What a job's page shows of it.


def changes_of(request, id):
    """The last changes of a job, newest first, as far as the end of the file has them.
    None for who may not change jobs: a secret that an edit has removed is in there."""
    if request.why_not:
        return []
    asked = {}
    outcomes = {}
    for user, time_, word, number, text in LINE.findall(end_of(path_of(request))):
        if word == 'asked':
            asked[number] = Change(user, time_, text, '')
        else:
            outcomes[number] = (word, text)
    job = 'job %d' % id
    found = []
    for number, change in asked.items():
        word, came = outcomes.get(number, UNKNOWN)
        what = change.text.removeprefix(job + ': ')
        if what == change.text and came != job:
            continue  # of another job
        if word == 'failed':
            came = 'failed: ' + came
        came = re.sub('^%s(: )?' % job, '', came)
        found.append(change._replace(text=what, came=came))
    return found[: -MOST_SHOWN - 1 : -1]


def end_of(path):
    """The end of a file of ours; '' if it can't be read."""
    with suppress(OSError):
        with open(path, 'rb', opener=opener) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_READ))
            return file.read(MOST_READ).decode('utf-8', 'replace')
    return ''
