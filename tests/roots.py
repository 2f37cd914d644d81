"""Makes a folder with a Debian and its database servers, as `tests/run --servers SUITE`
does, and prints its path. Needs root, and debootstrap. It is kept where tests/walk.py
keeps what it downloads; its servers are started in it, and the tests run here.
"""

import os
import sys
import tempfile

from walk import CACHE, ENVIRONMENT, MIRROR, run, write

INSTALL = '''mount -t proc proc "$1/proc"
chroot "$1" apt-get -q update
chroot "$1" apt-get -qy --no-install-recommends install postgresql pgbouncer "$2"
'''
# Where there is MySQL, it is the one to be tried: the others have no package of it.
MYSQL = {'sid': 'mysql-server-core'}


def make(suite):
    """The path of the folder for a suite of Debian, made once."""
    root = os.path.join(CACHE, 'servers-' + suite)
    if not os.path.isdir(root):
        os.makedirs(CACHE, exist_ok=True)
        new = tempfile.mkdtemp(prefix='servers-', dir=CACHE)
        run('debootstrap', '--variant=minbase', suite, new, MIRROR)
        write(new, 'usr/sbin/policy-rc.d', '#!/bin/sh\nexit 101\n', 0o755)
        package = MYSQL.get(suite, 'mariadb-server')
        shell = ['unshare', '--mount', 'sh', '-e', '-c', INSTALL, 'sh', new, package]
        run(*shell, env=ENVIRONMENT)
        os.chmod(new, 0o755)
        os.rename(new, root)
    return root


if __name__ == '__main__':
    print(make(sys.argv[1]))
