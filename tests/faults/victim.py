#!/usr/bin/env python3
"""The real program for a tracer: victim.py SETTINGS [its own arguments].

SETTINGS is JSON: `script`, the program; `minute` and `margin`, as worker.py has them; `set`,
constants of the program that are other than usual; `boot`, since when it takes the machine to
be in another boot, as CLOCK_BOOTTIME, or 0; `driver`, a module to import. With `ready` and
`go`, two descriptors, it says when all is imported, and waits for the tracer.
"""

import json
import os
import sys

from worker import program_of


def main(settings, *arguments):
    settings = json.loads(settings)
    program = program_of(settings['minute'], settings['margin'], settings['script'])
    vars(program).update(settings['set'])
    if settings['boot']:
        program.boot_id = lambda: 'another boot'
        boottime = program.boottime
        program.boottime = lambda: boottime() - settings['boot']
    if settings['driver']:
        __import__(settings['driver'])
    if 'ready' in settings:
        os.write(settings['ready'], b'.')
        os.close(settings['ready'])
        os.read(settings['go'], 1)
        os.close(settings['go'])
    return program.main(arguments)


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
