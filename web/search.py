"""What a search of jobs means: words that must all be there, each somewhere."""

import re
from collections import namedtuple

import distributed_cron as dc

MOST_SCHEDULES = 1000  # different ones that are put into words
COLUMNS = (*dc.SEARCHED, 'schedule', 'last_status', 'last_worker')
STATES = {  # words for how a job is
    'failed': '{is_failing}',
    'failing': '{is_failing}',
    'running': 'run_token IS NOT NULL',
}
# A tag ends where a word ends.
ENDS = ('', ' %', ',%', '.%', ';%', ':%', ')%', '#%', '\n%')
TAG = r'#[\w-]+'

# which: SQL that is true of the jobs that are found; values: of its parameters;
# first: the id that is meant before all others, 0 without one
Search = namedtuple('Search', 'which values first')
ALL = Search('1 = 1', {}, 0)


def search_of(store, text, below):
    """What the words of a text find, of the jobs with an id above `below`."""
    words = text.split()
    if not words:
        return ALL
    tests = ['id > :below']
    values = {'below': below}
    plain = []
    for number, word in enumerate(words):
        test, more = facet(number, word)
        values.update(more)
        if test:
            tests.append(test)
        else:
            plain.append(word)
    schedules, more = by_schedule(store, plain, below)
    values.update(more)
    which, more = dc.having_words(plain, COLUMNS, schedules)
    tests.append(which)
    values.update(more)
    first = 0
    if len(words) == 1 and re.fullmatch('[1-9][0-9]{0,8}', text.strip()):
        first = int(text)
    return Search(' AND '.join(tests), values, first)


def facet(number, word):
    """A word that says more than a text, as SQL and its values; empty for others."""
    lower = word.lower()
    if lower in STATES:
        return STATES[lower], {}
    kind, colon, host = lower.partition(':')
    if kind == 'host' and colon and host:
        test, values = dc.on_host(host, 'last_worker', 'worker_%d' % number)
        name = 'host_%d' % number
        values[name] = host
        return '(LOWER(run_on) = :%s OR %s)' % (name, test), values
    if not re.fullmatch(TAG, word):
        return '', {}
    tests = []
    values = {}
    for end in ENDS:
        name = 'tag_%d_%d' % (number, len(tests))
        tests.append("LOWER(description) LIKE LOWER(:%s) ESCAPE '!'" % name)
        values[name] = '%' + dc.like(word) + end
    return '(%s)' % ' OR '.join(tests), values


def by_schedule(store, words, below):
    """Which of some words are in schedules as people read them, as {word: [SQL]}, and
    the values."""
    rows = store.query(
        '''SELECT DISTINCT schedule, frequency FROM job
        WHERE id > :below AND after_job IS NULL LIMIT :most''',
        below=below,
        most=MOST_SCHEDULES,
    )
    tests = {}
    values = {}
    for number, word in enumerate(words):
        schedules = set()
        frequencies = set()
        for row in rows:
            job = dc.Job()._replace(schedule=row.schedule, frequency=row.frequency)
            if word.lower() not in dc.schedule_in_words(job).lower():
                continue
            if row.schedule is None:
                frequencies.add(row.frequency)
            else:
                schedules.add(row.schedule)
        tests[word] = []
        if schedules:
            tests[word].append('schedule IN (:schedules_%d)' % number)
            values['schedules_%d' % number] = sorted(schedules)
        if frequencies:
            is_one = 'frequency IN (:frequencies_%d)' % number
            tests[word].append('(schedule IS NULL AND %s)' % is_one)
            values['frequencies_%d' % number] = sorted(frequencies)
    return tests, values
