#!/usr/bin/env python3
"""The real program with short minutes: worker.py MINUTE MARGIN [its own arguments].

MINUTE and MARGIN are seconds. Only how long a minute of max_run_time lasts, and one of what
hosts say of themselves and of late starts, and the margin before a deadline, are changed, so
that deadlines and notes come within the time of a test. FAULTS_SCRIPT in the environment is
the program of another version.
"""

import importlib.util
import os
import sys
from datetime import timedelta

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, '..', '..', 'distributed_cron.py')


def program_of(minute, margin, script=SCRIPT):
    """The program as a module, with minutes and a margin of so many seconds."""
    spec = importlib.util.spec_from_file_location('distributed_cron', script)
    program = sys.modules['distributed_cron'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.MARGIN, load = int(margin), program.load_config
    program.HELLO = int(minute)
    program.LATE = timedelta(seconds=int(minute))
    program.SILENCE = 2 * program.LATE

    def load_config(*where):
        config = load(*where)
        config.minute = int(minute)
        if 'FAULTS_TIMEOUT' in os.environ:  # seconds of a clock that is fast
            config.db_timeout = int(os.environ['FAULTS_TIMEOUT'])
        return config

    program.load_config = load_config
    return program


def main(minute, margin, *arguments):
    script = os.environ.get('FAULTS_SCRIPT', SCRIPT)
    return program_of(minute, margin, script).main(arguments)


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
