"""The core of the suite on the oldest Python that the program runs on.

tests/run makes the environment for it where the system has a Python 3.9."""

import os
import subprocess

import pytest
from conftest import ROOT, SCRIPT

PYTHON = os.path.join(ROOT, 'tests', '.venv-3.9', 'bin', 'python')
# Of each part a few, on SQLite: plans, claims, endings, commands, and a real worker.
CORE = (
    'test_steps.py::test_a_plain_insert_is_enough_and_runs_at_once',
    'test_steps.py::test_window',
    'test_steps.py::test_overdue_runs_are_ended_by_anybody_once',
    'test_steps.py::test_given_back_is_due_again_at_once',
    'test_steps.py::test_history_is_purged_by_days_and_by_runs',
    'test_steps.py::test_importing_does_nothing',
    'test_commands.py::test_add_list_show_edit_remove',
    'test_worker.py::test_the_crontab_line_runs_what_is_due_and_leaves',
    'test_worker.py::test_status',
)

pytestmark = pytest.mark.skipif(
    not os.path.exists(PYTHON), reason='tests/run has found no Python 3.9 here'
)


def run(*command, folder=ROOT):
    done = subprocess.run(
        [PYTHON, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=140,
    )
    text = done.stdout.decode()
    assert done.returncode == 0, text[-3000:]
    return text


def test_it_is_3_9():
    assert run('--version').startswith('Python 3.9.')


def test_the_demo_needs_nothing_but_it(tmp_path):
    assert 'ran once' in run('-S', SCRIPT, 'demo', folder=tmp_path)


def test_the_core_of_the_suite():
    tests = ['tests/' + name for name in CORE]
    text = run(
        '-m', 'pytest', '-p', 'no:cacheprovider', '-k', 'sqlite or importing', *tests
    )
    assert ' passed' in text and 'failed' not in text and 'skipped' not in text
