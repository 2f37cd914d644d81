"""Fuzzing of what people write: each text ends in a result or in one line that says what
is wrong, soon. Guided by coverage (atheris, which is libFuzzer).

    tests/.venv/bin/python tests/faults/fuzz.py TARGET [--seconds 60] [--seed 1]

TARGET: expression, config, crontab or connect_string. Exit status 0: nothing found; else
the text that was found, and what became of it, is printed. A text that takes more than
5 seconds counts as a hang.
"""

import argparse
import io
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from zoneinfo import ZoneInfo

import atheris

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)
with atheris.instrument_imports(include=['distributed_cron']):
    import distributed_cron as dc

HANG = 5  # seconds
CRONTABS = os.path.join(ROOT, 'tests', 'crontabs')
BERLIN = dc.Zone(
    lambda when: (
        when.replace(tzinfo=ZoneInfo('UTC'))
        .astimezone(ZoneInfo('Europe/Berlin'))
        .replace(tzinfo=None)
    )
)


def expression(text, folder):
    """The expression parser, and the next times through a change of the clocks."""
    job, when = dc.Job(active=1, schedule=text), datetime(2026, 3, 28, 12)
    for _ in range(3):
        after, when = when, dc.next_run(job, when, when, BERLIN)
        assert after < when <= dc.PARKED, (after, when)
        if when == dc.PARKED:
            break


def config(text, folder):
    """The configuration file."""
    path = os.path.join(folder, 'fuzzed.yml')
    with open(path, 'w', encoding='utf-8', errors='surrogateescape') as file:
        file.write(text)
    found = dc.load_config(path, 'here')
    assert 1 <= found.max_tasks <= 100000 and found.hosts, vars(found)


def connect_string(text, folder):
    """A connect_string of the Perl program."""
    found = dc.Config({'db': {'connect_string': text}}, 'fuzzed.yml', 'here')
    assert found.db_engine in dc.DIALECTS and found.hosts, vars(found)


def crontab(text, folder):
    """Import of a crontab into a database, and again: then nothing is added."""
    path = os.path.join(folder, 'crontab')
    with open(
        path, 'w', encoding='utf-8', errors='surrogateescape', newline=''
    ) as file:
        file.write(text)
    place = dc.Config(
        {'db': {'path': 'fuzzed.db'}}, os.path.join(folder, 'x.yml'), 'here'
    )
    args, said = dc.parser().parse_args(['import', path]), []
    store = dc.Store(place)
    for _ in range(2):
        with (
            redirect_stdout(io.StringIO()) as out,
            redirect_stderr(io.StringIO()) as err,
        ):
            if not os.path.exists(place.db_path):
                dc.create_tables(store)
            dc.cmd_import(args, store.connect())
        count = out.getvalue().splitlines()[-1]  # after a line for each new job
        numbers = [int(word) for word in count.split() if word.isdigit()]
        # A line for each entry that is skipped; a note on MAILTO is of none.
        lines = err.getvalue().splitlines()
        errors = [line for line in lines if dc.NO_MAIL not in line]
        assert len(errors) == numbers[-1], (out.getvalue(), err.getvalue())
        said.append(numbers)
    first, again = said  # what was refused may now be there: it is known by its command
    assert again[0] == 0 and sum(first) == sum(again), said
    store.execute('DELETE FROM job')
    store.close()


TARGETS = {
    function.__name__: function
    for function in (expression, config, crontab, connect_string)
}
EXAMPLES = {
    'expression': [
        '* * * * *',
        '*/5 0-6/2 1,15 jan-DEC mon-fri',
        '0 0 L,LW,15W * *',
        '30 2 * * 5L,5#2',
        '@daily',
        '0 0 31 2 *',
        '@reboot',
    ],
    'config': [
        open(os.path.join(ROOT, 'distributed_cron.yml')).read().replace('# ', ''),
        'db:\n\tengine: mysql\n\thost: [a, "b:1", "[::1]:2"]\n',
        'max_tasks: cpu_half\nlog: {location: /tmp, max_bytes: 1000}\n',
    ],
    'crontab': [
        open(os.path.join(CRONTABS, name), encoding='utf-8').read()
        for name in sorted(os.listdir(CRONTABS))
        if name != 'README'
    ]
    + [
        '#: {"description": "x", "active": 0, "start_anchor": "23:00", "stop_anchor": null, '
        '"max_run_time": 5, "schedule": null, "frequency": 7}\n#*/7 * * * * true\n',
        '#: {"frequency": 1e400, "active": NaN}\n* * * * * x\n',
        '#: {"description": ["\\ud800"], "id": 99999999999999999999}\n@daily y\n',
    ],
    'connect_string': [
        'dbi:mysql:database=d;host=h;port=1;mysql_read_timeout=2',
        'dbi:Pg:dbname=d',
        'dbi:SQLite:database=/tmp/x.db',
    ],
}
WORDS = {
    'expression': '* / - , # L LW W jan dec sun sat @daily @reboot 0 59 23 31 12 7',
    'config': 'db: engine: host: path: tls: log: location: max_tasks: state: '
    'password: sqlite mysql yes no history: days: !! & * [ { 1e9 .inf .nan',
    'crontab': '* % \\% @daily #: SHELL= MAILTO= CRON_TZ= " \' {" root 0 null "id": [] '
    '"frequency": "schedule": "max_run_time": "start_anchor": 1e9',
    'connect_string': 'dbi: mysql: pg: sqlite: database= host= port= ; mysql_socket= '
    'mysql_read_timeout= [::1]: / 65536',
}


def check(target, text, folder):
    """One text: a result, or a Problem of one line."""
    try:
        TARGETS[target](text, folder)
    except dc.Problem as problem:
        line = dc.line_of(problem)
        assert line and '\n' not in line, line


def prepare(target, folder):
    """Examples to start from, and words to build of; libFuzzer's options for them."""
    os.mkdir(os.path.join(folder, 'corpus'))
    for number, example in enumerate(EXAMPLES[target]):
        with open(os.path.join(folder, 'corpus', str(number)), 'w') as file:
            file.write(example)
    with open(os.path.join(folder, 'words'), 'w') as file:
        for word in WORDS[target].split():
            file.write('"%s"\n' % word.replace('\\', r'\\').replace('"', r'\"'))
    return [
        os.path.join(folder, 'corpus'),
        '-dict=%s/words' % folder,
        '-max_len=2000',
        '-timeout=%d' % HANG,
        '-artifact_prefix=%s/' % folder,
        '-verbosity=0',
        '-print_final_stats=1',
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('target', choices=sorted(TARGETS))
    parser.add_argument('--seconds', type=int, default=60)
    parser.add_argument(
        '--seed', type=int, default=int.from_bytes(os.urandom(3), 'big')
    )
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix='dc-fuzz-')
    print('%s: %d s, seed %d' % (args.target, args.seconds, args.seed), flush=True)

    def one(data):
        text = data.decode('utf-8', 'surrogateescape')
        try:
            check(args.target, text, folder)
        except BaseException:
            print('found by %s: %r' % (args.target, text), flush=True)
            raise

    options = [
        *prepare(args.target, folder),
        '-max_total_time=%d' % args.seconds,
        '-seed=%d' % (args.seed or 1),
    ]
    child = os.fork()  # since libFuzzer ends its process itself
    if not child:
        try:
            atheris.Setup([sys.argv[0], *options], one)
            atheris.Fuzz()
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for name in os.listdir(folder):
        if name.startswith(('timeout-', 'oom-')):
            with open(os.path.join(folder, name), 'rb') as file:
                print('%s: %r' % (name.split('-')[0], file.read()))
    shutil.rmtree(folder)
    return 1 if status else 0


if __name__ == '__main__':
    sys.exit(main())
