"""A tracer of a worker and its runners, which can kill them at any of their system calls.

strace can't: of the processes that it follows it kills each at its own Nth call, and only
before a call. This one counts the calls of a worker and of each of its runners by what they
do (a write of which file, a statement of which words), so that a point has the same name in
each run, and kills whom it is told, right before or right after that call.
"""

import contextlib
import ctypes
import fcntl
import glob
import os
import platform
import re
import shutil
import signal
import sys
from collections import Counter, defaultdict

# See ptrace(2).
SYSCALL = 24
SEIZE = 0x4206
DETACH = 17
INTERRUPT = 0x4207
GET_EVENT = 0x4201
GET_CALL = 0x420E
OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x10  # mark calls; tell forks, clones and execs
STOPPED_BY_CALL = signal.SIGTRAP | 0x80
FORKED = (1, 2, 3)
EXECUTED = 4
STOPPED = 128
ENTERED = 1
ALL = 0x40000000  # waitpid: threads too
THREAD = 0x10000  # clone: of the same process
CREATE = os.O_CREAT
LOCKS = 6, 7, 37, 38  # fcntl

# Calls that others can see, by their numbers on x86-64: these are the points.
CALLS = {
    1: 'write',
    18: 'pwrite',
    20: 'writev',
    33: 'dup2',
    42: 'connect',
    44: 'send',
    46: 'send',
    56: 'clone',
    57: 'fork',
    58: 'vfork',
    59: 'execve',
    62: 'kill',
    73: 'flock',
    74: 'fsync',
    75: 'fdatasync',
    76: 'truncate',
    77: 'ftruncate',
    82: 'rename',
    83: 'mkdir',
    86: 'link',
    87: 'unlink',
    112: 'setsid',
    133: 'mknod',
    231: 'exit',
    257: 'open',
    258: 'mkdir',
    259: 'mknod',
    263: 'unlink',
    264: 'rename',
    285: 'fallocate',
    292: 'dup2',
    296: 'writev',
    316: 'rename',
    424: 'kill',
    435: 'clone',
    3: 'close',
}
# Between two points with only these between them, nobody else can have done anything: after
# the one is before the other. mmap, mprotect, munmap, brk, mremap, madvise; fstat, lseek,
# ioctl, newfstatat, stat, lstat; rt_sigaction, rt_sigprocmask, getpid, gettid, geteuid.
SILENT = {9, 10, 11, 12, 25, 28, 5, 8, 16, 262, 4, 6, 13, 14, 39, 186, 107}
WITH_PATH = {82: 0, 83: 0, 86: 0, 87: 0, 133: 0, 258: 1, 259: 1, 263: 1, 264: 1, 316: 1}

STATEMENT = (
    rb'\b(SELECT|INSERT|REPLACE|UPDATE|DELETE|BEGIN|START|COMMIT|ROLLBACK|SET|DISCARD)\b'
    rb'[\x09-\x7e]{0,4000}'
)

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Call(ctypes.Structure):
    """struct ptrace_syscall_info, as far as it is used."""

    _fields_ = [
        ('stop', ctypes.c_uint8),
        ('arch', ctypes.c_uint32),
        ('ip', ctypes.c_uint64),
        ('sp', ctypes.c_uint64),
        ('number', ctypes.c_uint64),  # at an exit, the result
        ('args', ctypes.c_uint64 * 6),
    ]


def ptrace(what, process, address=0, data=0):
    if libc.ptrace(what, process, address, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, 'ptrace: ' + os.strerror(code))


def why_not():
    """Why nothing can be traced here; '' if it can."""
    if sys.platform != 'linux' or platform.machine() != 'x86_64':
        return 'the tracer knows the system calls of Linux on x86-64 only'
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    try:
        ptrace(SEIZE, child)
        return ''
    except OSError as error:
        return error.strerror
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, ALL)


class Role:
    """A process that is traced: the worker, or one of its runners."""

    def __init__(self, name, leader, parent=None):
        self.name = name
        self.leader = leader  # process id
        self.counts = Counter()  # what a point does -> how many there were
        self.is_quiet = False  # nobody else can have acted since the last point
        self.parent = parent  # the runner's Role, of what will be a command


class Tracer:
    """Runs a worker that waits for its tracer, and kills at one point.

    A point is (role, what, count); `phase` is 'before' or 'after'; `victim` is 'process', the
    one whose point it is, or 'host': all. Without a point it only records them.
    """

    def __init__(self, process, folder, point=None, phase='before', victim='process'):
        self.folder = folder  # the state folder
        self.point = tuple(point) if point else None
        self.phase = phase
        self.victim = victim
        self.worker = Role('worker', process)
        self.roles = {process: self.worker}  # thread id -> Role
        self.early = set()  # children that stopped before their parent told of them
        self.inside = {}  # thread id -> (its point, the path) of the call that it is in
        self.paused = {}  # thread id -> the signal that is to be passed on
        self.runners = 0
        self.points = []  # [role, what, count, whether it may be joined to the one before]
        self.tokens = defaultdict(set)  # name of a runner -> tokens of its claims
        self.synced = {}  # path in the state folder -> bytes that are on the disk
        self.removed = {}  # path -> a copy of a file that was removed
        self.killed = None  # the process ids that were killed
        self.read = set()  # statements that only read, since somebody changed something
        self.claims = {}  # token -> what its file held then
        self.runner = None  # the name of the runner that was killed alone
        self.last_path = None  # of the call that is just looked at

    def run(self):
        """Trace until all have ended, or somebody is killed, and has died. Who still lives
        stands still then, until release()."""
        while self.roles and not self.killed:
            self.stopped(*os.waitpid(-1, ALL))
            if not self.killed:
                for thread, signum in self.paused.items():
                    self.resume(SYSCALL, thread, signum)
                self.paused.clear()
        while self.dying():
            self.stopped(*os.waitpid(-1, ALL))
        self.claims = claims_in(self.folder)

    def dying(self):
        """Threads of those that were killed."""
        killed = self.killed or ()
        return [thread for thread, role in self.roles.items() if role.leader in killed]

    def release(self):
        """Let all go that still live, and trace them no more."""
        for thread in set(self.roles) - set(self.paused):
            self.resume(INTERRUPT, thread)
        while self.roles:
            for thread, signum in self.paused.items():
                self.resume(DETACH, thread, signum)
                self.roles.pop(thread, None)
            self.paused.clear()
            if self.roles:
                self.stopped(*os.waitpid(-1, ALL))

    def resume(self, how, thread, signum=0):
        with contextlib.suppress(ProcessLookupError):
            ptrace(how, thread, 0, signum)

    def stopped(self, thread, status):
        """A thread has stopped, or ended. It stands still until it is resumed."""
        if not os.WIFSTOPPED(status):
            self.roles.pop(thread, None)
            self.paused.pop(thread, None)
            return
        signum, event = os.WSTOPSIG(status), status >> 16
        if thread not in self.roles:
            self.early.add(thread)  # it waits until its parent tells of it
            return
        if event == EXECUTED:
            self.executed(thread)
            return
        self.paused[thread] = 0
        if event in FORKED:
            self.forked(thread)
        elif signum == STOPPED_BY_CALL and not event:
            if not self.killed:
                self.at_call(thread)
        elif not event:
            self.paused[thread] = signum

    def executed(self, thread):
        """A command runs: it is of no interest any more."""
        role = self.roles.pop(thread)
        point, _ = self.inside.pop(thread, (None, None))
        self.strike(role, point, 'after')
        self.resume(DETACH, thread)

    def forked(self, parent):
        """A child is there: a thread, a runner, or what will be a command."""
        told = ctypes.c_ulong()
        ptrace(GET_EVENT, parent, 0, ctypes.addressof(told))
        child, role = told.value, self.roles[parent]
        if group_of(child) == role.leader:
            self.roles[child] = role
        elif role is self.worker:
            self.runners += 1
            self.roles[child] = Role('runner %d' % self.runners, child)
        else:
            self.roles[child] = Role(role.name + "'s child", child, role)
        if child in self.early:
            self.early.remove(child)
            self.paused[child] = 0

    def at_call(self, thread):
        """A thread enters a call, or comes back from it."""
        call = Call()
        try:
            ptrace(GET_CALL, thread, ctypes.sizeof(call), ctypes.addressof(call))
        except ProcessLookupError:
            return
        role = self.roles[thread]
        if call.stop == ENTERED:
            name = CALLS.get(call.number)
            what = self.what(thread, call, name) if name else None
            if what is None:
                role.is_quiet = role.is_quiet and call.number in SILENT
                return
            if self.is_seen(what):
                role.is_quiet = False
                return
            point = self.enter(role, what)
            self.inside[thread] = point, self.last_path
            self.before(thread, call, name)
            self.strike(role, point, 'before')
        elif thread in self.inside:
            point, path = self.inside.pop(thread)
            self.after(point, path)
            self.strike(role, point, 'after')

    def is_seen(self, what):
        """Whether it only reads what has been read since anybody changed something."""
        if not what.startswith('send socket: SELECT') or what.endswith('FOR UPDATE'):
            self.read.clear()
        elif what in self.read:
            return True
        else:
            self.read.add(what)
        return False

    def enter(self, role, what):
        role.counts[what] += 1
        point = role.name, what, role.counts[what]
        self.points.append([*point, role.is_quiet])
        role.is_quiet = True
        return point

    def before(self, thread, call, name):
        """Keep what a crash of the host might undo."""
        if name == 'unlink':
            path = self.path_of(thread, call)
            if is_claim(path):
                copy = '%s-removed-%d' % (self.folder, len(self.removed))
                with contextlib.suppress(OSError):
                    shutil.copy2(path, copy)
                    os.truncate(copy, self.synced.get(path, 0))
                    self.removed[path] = copy

    def after(self, point, path):
        """Note what is on the disk."""
        if point[1].startswith('fsync'):
            with contextlib.suppress(OSError):
                self.synced[path] = os.path.getsize(path)

    def strike(self, role, point, phase):
        if point is None or point != self.point or phase != self.phase:
            return
        role = role.parent or role
        victims = {role.leader}
        if self.victim == 'host':
            victims = {role.leader for role in self.roles.values()}
        elif role is not self.worker:
            self.runner = role.name
        for process in victims:
            os.kill(process, signal.SIGKILL)
        self.killed = sorted(victims)

    # What a call does, in words that are the same in each run.

    def what(self, thread, call, name):
        """Of a call; None if nobody else can see it."""
        args = call.args
        if name in ('fork', 'vfork', 'setsid', 'exit', 'kill'):
            return name
        if name == 'clone':
            return self.clone(thread, call)
        if name == 'execve':
            return 'execve ' + text_at(thread, args[0])
        if name == 'open':
            path = text_at(thread, args[1])
            is_new = args[2] & CREATE and path != os.devnull
            return 'open ' + plain(path) if is_new else None
        if call.number in WITH_PATH:
            path = self.path_of(thread, call)
            does_nothing = name in ('mknod', 'mkdir') and os.path.exists(path)
            return None if does_nothing else '%s %s' % (name, plain(path))
        return self.what_with_descriptor(thread, call, name)

    def what_with_descriptor(self, thread, call, name):
        args = call.args
        path = target(thread, args[0])
        if name in ('dup2', 'close'):
            # A descriptor of a claim's file is its lock. The worker's are for reading.
            is_lock = is_claim(path) and self.roles[thread] is not self.worker
            return '%s %s' % (name, plain(path)) if is_lock else None
        if name == 'flock' and is_claim(path) and args[1] & fcntl.LOCK_NB:
            return None  # a look whether it is locked
        if path.startswith(('pipe:', 'anon_inode:', os.devnull)):
            return None
        self.last_path = path
        data = b''
        if name in ('write', 'send'):
            data = data_at(thread, args[1], args[2])
            self.note_token(thread, path, data)
        return '%s %s%s' % (name, plain(path), words_of(data))

    def note_token(self, thread, path, data):
        if is_claim(path) and b'"started"' in data:
            self.tokens[self.roles[thread].name].add(os.path.basename(path))

    def clone(self, thread, call):
        flags = call.args[0]
        if call.number == 435:
            flags = int.from_bytes(data_at(thread, call.args[0], 8), sys.byteorder)
        return None if flags & THREAD else 'fork'

    def path_of(self, thread, call):
        return text_at(thread, call.args[WITH_PATH[call.number]])


def claims_in(folder):
    """What the files of claims hold: {token: text}."""
    claims = {}
    for path in glob.glob(os.path.join(folder, '*')):
        if is_claim(path):
            with open(path, errors='replace') as file:
                claims[os.path.basename(path)] = file.read()
    return claims


def is_claim(path):
    """Whether a path is that of a claim's file."""
    return re.fullmatch('[0-9a-f]{32}', os.path.basename(path)) is not None


def group_of(thread):
    """The process of a thread."""
    with open('/proc/%d/status' % thread) as file:
        return int(re.search(r'Tgid:\s*(\d+)', file.read())[1])


def target(thread, descriptor):
    try:
        return os.readlink('/proc/%d/fd/%d' % (thread, ctypes.c_int(descriptor).value))
    except OSError:
        return '?'


def data_at(thread, address, size):
    """So many bytes of a thread's memory."""
    with contextlib.suppress(OSError), open('/proc/%d/mem' % thread, 'rb', 0) as memory:
        memory.seek(address)
        return memory.read(min(size, 1 << 16))
    return b''


def text_at(thread, address):
    """The text that begins there; the kernel reads no page after its end, and so do we."""
    data = b''
    while b'\0' not in data and len(data) < 4096:
        step = 256 - (address + len(data)) % 256
        more = data_at(thread, address + len(data), step)
        if not more:
            break
        data += more
    return data.split(b'\0')[0].decode('utf-8', 'replace')


def plain(path):
    """A path or a socket without what is different in each run."""
    name = os.path.basename(path)
    if path.startswith('socket:'):
        return 'socket'
    name = re.sub('[0-9a-f]{32}', 'CLAIM', name)
    return re.sub(r'^place\d+', 'folder', name)


def words_of(data):
    """What is written: the events of a claim's file, or the words of a statement."""
    events = re.findall(rb'"event": ?"(\w+)"', data)
    if events:
        return ' ' + b','.join(events).decode()
    data = re.sub(rb'/\*.*?\*/', b'', data)
    found = re.search(STATEMENT, data)
    if not found:
        return ''
    text = ' '.join(found[0].decode('ascii', 'replace').split())
    for pattern, word in (("'[^']*'", "'…'"), (r'\d+', '0'), (r'\$0', '?')):
        text = re.sub(pattern, word, text)
    return ': ' + (text if len(text) < 90 else text[:60] + '…' + text[-30:])
