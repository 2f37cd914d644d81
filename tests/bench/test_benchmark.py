"""The benchmark's parts work, and the goals hold that no noise of the machine touches."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from bench import benchmark
from bench.picture import picture
from conftest import ROOT


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    bench = benchmark.Bench(str(tmp_path_factory.mktemp('bench')), True)
    yield bench
    bench.close()


def rows_of(name, bench):
    rows = list(benchmark.ROWS[name](bench))
    assert rows
    return rows


@pytest.mark.slow
def test_statements_per_run(bench):
    many, two = rows_of('statements', bench)
    assert many.reached and 0.2 < float(many.measured) <= 2.5, many
    # On a busy machine quick commands end one by one.
    assert 2 < float(two.measured) <= 11, two


@pytest.mark.slow
def test_an_idle_poll_is_one_statement_that_reads_few_rows(bench):
    polls = [row for row in rows_of('idle', bench) if row.what.startswith('idle poll')]
    assert len(polls) == 2 and '100000' in polls[1].what
    for row in polls:
        statements, polled = map(int, re.findall(r'\d+', row.beside))
        assert polled / 2 <= statements <= polled + 5, (
            row
        )  # 4: what hello sends a minute
        assert 0 < int(re.search(r'(\d+) rows', row.measured)[1]) < 50, row


@pytest.mark.slow
def test_many_workers_waste_few_claims_and_log_no_error(bench):
    row = rows_of('contention', bench)[0]
    assert row.reached, row


@pytest.mark.slow
def test_work_is_spread(bench):
    """Of a busy machine less is asked than of an idle one: nobody takes all."""
    row = next(benchmark.ROWS['spread'](bench))
    assert row.ratio >= 0.3, row


@pytest.mark.slow
def test_remembered_signatures_cost_little(bench):
    """Of a busy machine less is asked than of an idle one."""
    row = rows_of('signed', bench)[1]
    assert row.ratio >= 0.5, row


def test_the_limit_is_measured():
    assert 20 < benchmark.limit(50) < 50000


@pytest.mark.slow
def test_a_lost_run_is_noticed(bench):
    with bench.place() as place:
        place.fill(2)
        place.store.execute(
            "INSERT INTO run (job_id, run_no, status) VALUES "
            "(1, 1, 'Success'), (1, 2, 'Success')"
        )
        with pytest.raises(AssertionError):
            place.wait_all(2)


def test_table_and_picture():
    rows = [
        benchmark.Row(
            '500 due at once, one worker',
            '1300 runs/s',
            'posix_spawn 2000/s',
            0.65,
            '≥ 0.65',
            True,
        ),
        benchmark.Row('a & b', '9.5 ms', '', None, '≤ 8 ms', False),
        benchmark.Row(
            'a cron, 500 due at once', '400 starts/s', '', 0.3, 'of ours: < 1', True
        ),
    ]
    lines = benchmark.table(rows).split('\n')
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    assert '**no**' in lines[3] and 'yes' in lines[2]
    drawn = ElementTree.fromstring(picture(rows))
    bars = [bar.get('class') for bar in drawn.iter('{http://www.w3.org/2000/svg}rect')]
    assert bars == ['other', 'good', 'other', 'good', 'bad']


def test_the_command_line():
    done = subprocess.run(
        [
            sys.executable,
            os.path.join(ROOT, 'tests', 'bench', 'benchmark.py'),
            '--only',
            'nothing',
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 2 and b'throughput' in done.stderr
