"""Makes a folder with a Debian and its database servers, as `tests/run --servers SUITE`
does, and prints its path. Needs root, and debootstrap. It is kept where tests/walk.py
keeps what it downloads; its servers are started in it, and the tests run here.
"""

import sys

from walk import ENVIRONMENT, root_of, run

INSTALL = '''mount -t proc proc "$1/proc"
chroot "$1" apt-get -q update
chroot "$1" apt-get -qy --no-install-recommends install postgresql pgbouncer "$2"
'''
# Where there is MySQL, it is the one to be tried: the others have no package of it.
MYSQL = {'sid': 'mysql-server-core'}


def make(suite):
    """The path of the folder for a suite of Debian."""
    package = MYSQL.get(suite, 'mariadb-server')

    def install(root):
        shell = ['unshare', '--mount', 'sh', '-e', '-c', INSTALL, 'sh', root, package]
        run(*shell, env=ENVIRONMENT)

    return root_of('servers-' + suite, suite, install)


if __name__ == '__main__':
    print(make(sys.argv[1]))
