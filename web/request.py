"""One request: what it asks for, who asks, and whether that is allowed."""

import hashlib
import hmac
import os
import re
import tempfile
import threading
from collections import namedtuple
from contextlib import suppress
from urllib.parse import parse_qs, quote, urlsplit

import distributed_cron as dc

MOST_BODY = 262144  # bytes of a form
MOST_QUERY = 4000  # bytes of a query string
MOST_FIELDS = 60  # of either: the list has 50 rows that can be chosen
PIECE = 65536  # bytes that are read at once
MOST_COOKIES = 100
COOKIE = 'distributed_cron'  # the name of the cookie with the session
TOLD = 'distributed_cron_told'  # of the one that says what was done
KEY = 'distributed_cron_key_'  # and of the one with the key; a port follows
FORM = 'application/x-www-form-urlencoded'
RELAYED = ('HTTP_FORWARDED', 'HTTP_X_', 'HTTP_VIA')  # headers that proxies add
ANY_ADDRESS = ('0.0.0.0', '::')
# Requests that may use the database at the same time, and the seconds that others wait.
TURNS = threading.BoundedSemaphore(8)
PATIENCE = 5

# Where this program itself listens. host: as it was given; address: what that means;
# key: of the visitor who started it, '' where nobody may change anything.
Alone = namedtuple('Alone', 'host address key')


class Refused(Exception):
    """A request that is not answered as asked.

    status: of the answer; sentence: for people; headers: more ones of the answer;
    cause: what the error log is to say, None where there is nothing to add."""

    def __init__(self, status, sentence, *headers, cause=None):
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = list(headers)
        self.cause = cause


class Request:
    """What a WSGI environment asks for.

    alone: the Alone of this program; None under a web server, which then says who has
    logged in."""

    def __init__(self, environ, config, alone=None):
        self.environ = environ
        self.config = config
        self.alone = alone
        self.method = environ['REQUEST_METHOD']
        self.path = environ.get('PATH_INFO') or '/'
        self.base = ''  # the path of the whole site, without a slash at its end
        self.host = environ.get('HTTP_HOST', '')
        self.user = None  # the login, None without one
        self.secure = environ.get('wsgi.url_scheme') == 'https'
        self.cookies = cookies_of(environ.get('HTTP_COOKIE', ''))
        self.new_cookies = []  # headers for the answer
        self.prefix = ''  # of the names of our cookies
        self.has_turn = False  # at the database
        self.opened = None  # the store, once a page has asked for it
        self.asked = None  # the database's time when it was opened, UTC
        self.now = None  # the same to the second, as all times in the tables
        self.local_now = None  # the same in the database's time zone
        script = environ.get('SCRIPT_NAME', '').strip('/')
        if script:
            self.base = '/' + quote(script, encoding='latin-1')
        elif self.secure:
            self.prefix = '__Host-'  # browsers take such cookies from this host only
        if not alone:
            self.user = environ.get('REMOTE_USER') or None

    @property
    def store(self):
        """The store, connected when a page first asks for it; that sets the times."""
        if self.opened is None:
            self.take_turn()
            store = dc.Store(self.config).connect()
            asked, local = store.query('SELECT {utc_exact}, {local}')[0]
            self.asked = dc.moment(asked)
            self.now = self.asked.replace(microsecond=0)
            self.local_now = dc.moment(local)
            self.opened = store
        return self.opened

    def take_turn(self):
        """Wait until few others use the database. Raises Refused."""
        if self.has_turn:
            return
        self.has_turn = TURNS.acquire(timeout=PATIENCE)
        if not self.has_turn:
            raise Refused(
                503,
                'Too many pages are being asked for at the same time.',
                ('Retry-After', '10'),
            )

    def close(self):
        """Leave the database, and the turn to others."""
        if self.opened:
            self.opened.close()
        if self.has_turn:
            TURNS.release()

    # What it asks for.

    def query(self, **allowed):
        """The values of the query string, by name; '' where one is not given.

        allowed: the pattern of each. Raises Refused."""
        given = fields(self.environ.get('QUERY_STRING', ''), MOST_QUERY, 414)
        values = {}
        for name, pattern in allowed.items():
            value = given.get(name, '')
            if value and not re.fullmatch(pattern, value):
                raise Refused(400, 'Invalid value for %s in the address.' % name)
            values[name] = value
        return values

    def form(self):
        """The fields of a form that may change something. Raises Refused."""
        referer = self.environ.get('HTTP_REFERER', '')
        if not self.is_mine(self.environ.get('HTTP_ORIGIN') or referer):
            raise Refused(403, 'The form does not come from a page of this host.')
        self.check_right()
        kind, _, _ = self.environ.get('CONTENT_TYPE', '').partition(';')
        if kind.strip().lower() != FORM:
            raise Refused(415, 'A form must be sent as %s.' % FORM)
        values = fields(self.body(), MOST_BODY, 413)
        expected = self.token().encode()
        given = values.get('csrf', '').encode()
        if not hmac.compare_digest(given, expected):
            raise Refused(
                403,
                'This form has expired; go back, reload the page and try again.',
            )
        return values

    def body(self):
        """The whole body as text. Raises Refused if its length is not as announced."""
        length = self.environ.get('CONTENT_LENGTH') or ''
        if 'HTTP_TRANSFER_ENCODING' in self.environ or not is_length(length):
            raise Refused(411, 'A form must be sent with its length.')
        length = int(length)
        if length > MOST_BODY:
            raise Refused(413, 'The form is too long; allowed: %d bytes.' % MOST_BODY)
        self.environ['CONTENT_LENGTH'] = '0'  # nothing is left to be thrown away
        try:
            body = self.environ['wsgi.input'].read(length)
        except OSError:
            raise Refused(408, 'The form did not arrive in time.') from None
        if len(body) != length:
            raise Refused(400, 'The form is shorter than announced.')
        return body.decode('latin-1')

    # Who asks, and from where.

    @property
    def on_loopback(self):
        """Whether only this machine's own users can ask."""
        for name in self.environ:
            if name.startswith(RELAYED):
                return False
        return self.alone is not None and is_loopback(self.alone.address)

    @property
    def has_key(self):
        """Whether it comes from whoever started this program, on this machine."""
        return self.is_key(self.cookie(self.key_name))

    @property
    def key_name(self):
        """The cookie with the key; a browser sends it to each port of the host."""
        return KEY + self.environ['SERVER_PORT']

    def is_key(self, text):
        """Whether a text is the key of this program, and may be used."""
        if not self.on_loopback or not self.alone.key:
            return False
        return hmac.compare_digest(text.encode(), self.alone.key.encode())

    def brings_key(self):
        """Whether the address holds the key, which becomes a cookie. Raises Refused."""
        name, _, given = self.environ.get('QUERY_STRING', '').partition('=')
        if name != 'key' or self.alone is None:
            return False
        if not self.is_key(given):
            raise Refused(403, 'This is not the key; each start makes a new one.')
        self.set_cookie(self.key_name, given)
        return True

    @property
    def why_not(self):
        """Why this visitor may not change anything; '' for one who may."""
        editors = self.config.web_editors
        if self.config.web_readonly:
            return 'the page is read-only for everyone'
        if self.user is None and self.on_loopback and not self.has_key:
            return 'it was opened without the key that --serve made'
        if self.user is None and not self.on_loopback:
            return 'you have not logged in'
        if editors and self.user not in editors:
            return 'you are not an editor'
        return ''

    def check_right(self):
        """Raise Refused for a visitor who may not change anything."""
        if self.why_not:
            raise Refused(403, 'You may only view this page: %s.' % self.why_not)

    def check_host(self):
        """Answer to the names of this page only. Raises Refused.

        A page of another site can get our address from its own DNS, but its requests
        then carry its own name. Behind a web server the login keeps them out, unless
        web.hosts is set."""
        name = re.sub(':[0-9]*$', '', self.host)
        name = name.strip('[]').lower()
        names = [host.lower() for host in self.config.web_hosts]
        if self.alone is None and not names:
            return
        if name not in names and not self.is_own_name(name):
            raise Refused(421, 'This page does not answer to this name (web.hosts).')

    def is_own_name(self, name):
        """Whether a name is that of the address on which this program listens."""
        if self.alone is None:
            return False
        host, address, _ = self.alone
        if is_loopback(address):
            return name == 'localhost' or is_loopback(name)
        if address in ANY_ADDRESS and re.fullmatch('[0-9.]+|[0-9a-f.]*:.*', name):
            return True  # it is no name, but an address
        return name in (host.lower(), address)

    def is_mine(self, address):
        """Whether the address of a page is on the host that was asked."""
        try:
            parts = urlsplit(address)
        except ValueError:
            return False
        ports = {'https': ':443'}  # without TLS here as well: a proxy may end it
        if not self.secure:
            ports['http'] = ':80'
        port = ports.get(parts.scheme)
        if port is None or not self.host:
            return False
        asked = self.host.lower().removesuffix(port)
        return parts.netloc.lower().removesuffix(port) == asked

    def came_from(self):
        """The path, with its query, of the page of ours that has the form; else '/'."""
        address = self.environ.get('HTTP_REFERER', '')
        page = r'/(job/\d+|run/\d+/\d+|runs|ahead|hosts)?(\?[\w%+=&.~-]+)?'
        pattern = r'https?://[^/]*%s(%s)' % (re.escape(self.base), page)
        match = re.fullmatch(pattern, address, re.ASCII)
        if match and self.is_mine(address):
            return match[1]
        return '/'

    # Its session: a random cookie, to which forms are bound with a secret of the page.

    def token(self):
        """What a form must carry, in this session of this user."""
        session = self.cookie(COOKIE)
        if not re.fullmatch('[0-9a-f]{32}', session):
            session = os.urandom(16).hex()
            self.cookies[self.prefix + COOKIE] = session
            self.set_cookie(COOKIE, session)
        text = '%s %s' % (session, self.user)
        mac = hmac.new(
            secret(self.config),
            text.encode('utf-8', 'replace'),
            hashlib.sha256,
        )
        return mac.hexdigest()

    def cookie(self, name):
        """The value of a cookie of this site; '' where there is none."""
        return self.cookies.get(self.prefix + name, '')

    def set_cookie(self, name, value, seconds=None):
        """Set a cookie of this site; it lasts for the session unless told otherwise."""
        path = self.base or '/'
        words = [
            '%s%s=%s' % (self.prefix, name, value),
            'Path=%s' % path,
            'HttpOnly',
            'SameSite=Strict',
        ]
        if seconds is not None:
            words.append('Max-Age=%d' % seconds)
        if self.secure:
            words.append('Secure')
        self.new_cookies.append(('Set-Cookie', '; '.join(words)))


def cookies_of(text):
    """The cookies of a request, by name; of two with the same name, the first."""
    cookies = {}
    for pair in text.split(';', MOST_COOKIES):
        name, _, value = pair.partition('=')
        cookies.setdefault(name.strip(), value.strip())
    return cookies


def fields(text, most, status):
    """The fields of a form or a query string, each once, in UTF-8.

    Raises Refused, with the given status for a text of more than `most` bytes."""
    if len(text) > most:
        raise Refused(status, 'Too long; allowed: %d bytes.' % most)
    try:
        text.encode('ascii')  # everything else must come as %XX
        lists = parse_qs(
            text,
            keep_blank_values=True,
            errors='strict',
            max_num_fields=MOST_FIELDS,
        )
        values = {name: value for name, (value,) in lists.items()}
    except ValueError:
        raise Refused(
            400,
            'A field is not UTF-8, is repeated, or there are too many fields.',
        ) from None
    if '\0' in ''.join(values.values()):
        raise Refused(400, 'A field has a NUL byte.')
    return values


def throw_away_body(environ):
    """Read a body that nobody wanted, up to some size: a server that can't send us all
    of it may cut off our answer (Apache's mod_cgid does)."""
    length = environ.get('CONTENT_LENGTH') or ''
    if not is_length(length):
        return
    left = min(int(length), 4 * MOST_BODY)
    with suppress(OSError):
        while left > 0:
            piece = environ['wsgi.input'].read(min(left, PIECE))
            if not piece:
                break
            left -= len(piece)


def is_length(text):
    return re.fullmatch('[0-9]{1,15}', text) is not None


def is_loopback(address):
    """Whether an address is of this machine only; None is of no machine."""
    return re.fullmatch(r'::1|127(\.[0-9]{1,3}){3}', address or '') is not None


def secret(config):
    """The secret that only the page knows, made by the request that first needs it.

    Raises Problem."""
    path = os.path.join(config.log_location, 'web.secret')
    try:
        dc.make_folder(config.log_location, 0o750)
        if not os.path.exists(path):
            make_secret(path)
        return read_secret(path)
    except OSError as error:
        raise dc.Problem(dc.line_of(error)) from None


def make_secret(path):
    """Make the secret, unless another request is faster.

    The file is linked, not renamed: the first of two stays, and both read it whole."""
    handle, made = tempfile.mkstemp('', 'web.secret.', os.path.dirname(path))
    key = os.urandom(32)
    with open(handle, 'w') as file:
        file.write(key.hex())
    with suppress(FileExistsError):
        os.link(made, path)
    os.unlink(made)


def read_secret(path):
    """The secret in a file; Problem if others could have read or written it."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(handle, 'rb') as file:
        about = os.fstat(handle)
        value = file.read(100)
    mine = about.st_uid == os.geteuid()
    shared = about.st_mode & 0o077
    if not mine or shared or len(value) != 64:
        raise dc.Problem('%s: is not a secret of this user alone; remove it' % path)
    return value
