"""A minute of fuzzing for each text that people write; tests/faults/fuzz.py takes hours."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from faults import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_web import Browser

FUZZ = os.path.join(ROOT, 'tests', 'faults', 'fuzz.py')


@pytest.mark.slow
@pytest.mark.parametrize(
    'target', ['expression', 'config', 'crontab', 'connect_string']
)
def test_any_text_ends_in_a_result_or_one_line(target):
    done = subprocess.run(
        [sys.executable, FUZZ, target, '--seconds', '60'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out = done.stdout.decode('utf-8', 'replace')
    assert done.returncode == 0, out[-3000:]
    assert 'number_of_executed_units' in out


@pytest.mark.slow
def test_any_request_gets_a_plain_answer():
    """Of the page by --serve; tests/faults/requests.py sends a million."""
    script = os.path.join(ROOT, 'tests', 'faults', 'requests.py')
    done = subprocess.run(
        [sys.executable, script, '--requests', '20000', '--seed', '77'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.randoms(use_true_random=False))
def test_the_shortest_request_that_breaks_the_page(sqlite_place, source):
    """hypothesis throws the dice, and would find it; the table keeps what came before."""
    browser, dice = Browser(sqlite_place), requests.Dice(source)
    if not sqlite_place.sql('SELECT 1 FROM job'):
        sqlite_place.add()
    body = 'csrf=%s&%s' % (browser.token(), dice.fields())
    path, method = dice.path(), dice.method()
    answer = browser.ask(
        path, method, body.encode(), HTTP_ORIGIN='http://' + browser.host
    )
    assert answer.status in requests.ANSWERS, (method, path, body, browser.errors)
    assert '<xss>' not in answer.text and 'Traceback' not in browser.errors
