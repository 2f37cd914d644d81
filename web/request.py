"""One request: what it asks, who asks, and whether that is allowed."""

import hashlib
import hmac
import os
import re
import tempfile
from contextlib import suppress
from urllib.parse import parse_qs, quote, urlsplit

import distributed_cron as dc

MOST_BODY, MOST_QUERY, MOST_FIELDS = 262144, 4000, 20  # bytes, bytes, number
COOKIE, TOLD = 'distributed_cron', 'distributed_cron_told'


class Refused(Exception):
    """A request that is not answered as asked: a status, and a sentence for people."""

    def __init__(self, status, sentence, *headers, cause=None):
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, list(headers)
        self.cause = cause  # for the error log


class Request:
    """What a WSGI environment asks. alone: the address on which this program itself
    listens; None under a web server, whose word on the login then counts."""

    opened = None  # the store, once there is need for it

    def __init__(self, environ, config, alone=None):
        self.environ, self.config, self.alone = environ, config, alone
        self.method = environ['REQUEST_METHOD']
        self.path = environ.get('PATH_INFO') or '/'
        script = environ.get('SCRIPT_NAME', '').strip('/')
        self.base = '/' + quote(script, encoding='latin-1') if script else ''
        self.user = None if alone else environ.get('REMOTE_USER') or None
        self.host, self.new_cookies = environ.get('HTTP_HOST', ''), []
        self.secure = environ.get('wsgi.url_scheme') == 'https'
        self.cookies = dict(
            re.findall('([a-z_]+)=([^;, ]*)', environ.get('HTTP_COOKIE', ''))
        )

    @property
    def store(self):
        """A connected store; then there is a time too, that of the database."""
        if self.opened is None:
            store = dc.Store(self.config).connect()
            self.asked, self.local_now = map(
                dc.moment, store.query('SELECT {utc_exact}, {local}')[0]
            )
            # To the second, as all times in the tables: SQL and Python then agree.
            self.now, self.opened = self.asked.replace(microsecond=0), store
        return self.opened

    # What it asks.

    def query(self, **allowed):
        """The values of the query string, each a text that fits the pattern of its
        name, or '' where it is not given. Raises Refused."""
        given = fields(self.environ.get('QUERY_STRING', ''), MOST_QUERY, 414)
        for name, pattern in allowed.items():
            if given.get(name) and not re.fullmatch(pattern, given[name]):
                raise Refused(400, 'What the address says of %s can not be.' % name)
        return {name: given.get(name, '') for name in allowed}

    def form(self):
        """The fields of a form that may change something. Raises Refused."""
        origin = self.environ.get('HTTP_ORIGIN') or self.environ.get('HTTP_REFERER', '')
        if not self.is_mine(origin):
            raise Refused(403, 'The form does not come from a page of this host.')
        self.check_right()
        kind = self.environ.get('CONTENT_TYPE', '').partition(';')[0].strip().lower()
        if kind != 'application/x-www-form-urlencoded':
            raise Refused(415, 'A form is sent as application/x-www-form-urlencoded.')
        values = fields(self.body(), MOST_BODY, 413)
        if not hmac.compare_digest(
            values.get('csrf', '').encode(), self.token().encode()
        ):
            raise Refused(
                403,
                'This form is not valid any more; go back, reload the '
                'page and try again.',
            )
        return values

    def body(self):
        """The body, as long as it says it is, and no longer than allowed."""
        length = self.environ.get('CONTENT_LENGTH') or ''
        if 'HTTP_TRANSFER_ENCODING' in self.environ or not is_length(length):
            raise Refused(411, 'A form is sent with its length.')
        if int(length) > MOST_BODY:
            raise Refused(413, 'The form is too long; allowed: %d bytes.' % MOST_BODY)
        self.environ['CONTENT_LENGTH'] = '0'  # nothing is left to be thrown away
        try:
            body = self.environ['wsgi.input'].read(int(length))
        except OSError:
            raise Refused(408, 'The form did not come in time.') from None
        if len(body) != int(length):
            raise Refused(400, 'The form is shorter than it says.')
        return body.decode('latin-1')

    # Who asks, and from where.

    @property
    def on_loopback(self):
        """Whether nobody but this machine's own users can ask."""
        return is_loopback(self.alone) and not any(
            name.startswith(('HTTP_FORWARDED', 'HTTP_X_', 'HTTP_VIA'))
            for name in self.environ
        )

    @property
    def why_not(self):
        """Why who asks may not change anything; '' for who may."""
        editors = self.config.web_editors
        if self.config.web_readonly:
            return 'the page is read-only for all'
        if self.user is None and not self.on_loopback:
            return 'you have not logged in'
        return 'you are no editor' if editors and self.user not in editors else ''

    def check_right(self):
        if self.why_not:
            raise Refused(403, 'You may look, not change anything: %s.' % self.why_not)

    def check_host(self):
        """Alone on loopback the names of this machine only: a page of another site can
        give itself our address by DNS, but then it calls us by its own name."""
        name = re.sub(':[0-9]*$', '', self.host).strip('[]').lower()
        if is_loopback(self.alone) and name != 'localhost' and not is_loopback(name):
            raise Refused(421, 'This page answers on this machine only, as localhost.')

    def is_mine(self, address):
        """Whether an address is on the host that was asked."""
        with suppress(ValueError):
            parts = urlsplit(address)
            port = {'https': ':443', 'http': None if self.secure else ':80'}.get(
                parts.scheme
            )
            return bool(port and self.host) and parts.netloc.lower().removesuffix(
                port
            ) == self.host.lower().removesuffix(port)
        return False

    def came_from(self):
        """The path of ours from which a form came, with its query; else the list's."""
        address = self.environ.get('HTTP_REFERER', '')
        match = re.fullmatch(
            r'https?://[^/]*%s(/(job/\d+|run/\d+/\d+|hosts)?(\?[\w%%+=&.~-]+)?)'
            % re.escape(self.base),
            address,
            re.ASCII,
        )
        return match[1] if match and self.is_mine(address) else '/'

    # Its session: a random cookie, to which forms are bound by a secret of ours.

    def token(self):
        """What a form must carry, in this session of this user."""
        if not re.fullmatch('[0-9a-f]{32}', self.cookies.get(COOKIE, '')):
            self.cookies[COOKIE] = os.urandom(16).hex()
            self.set_cookie(COOKIE, self.cookies[COOKIE])
        text = '%s %s' % (self.cookies[COOKIE], self.user)
        return hmac.new(
            secret(self.config), text.encode('utf-8', 'replace'), hashlib.sha256
        ).hexdigest()

    def set_cookie(self, name, value, more=''):
        self.new_cookies.append(
            (
                'Set-Cookie',
                '%s=%s; Path=%s; HttpOnly; SameSite=Strict%s'
                % (name, value, self.base or '/', more + '; Secure' * self.secure),
            )
        )


def fields(text, most, status):
    """The fields of a form or a query string, each once, in UTF-8. Raises Refused."""
    if len(text) > most:
        raise Refused(status, 'Too long; allowed: %d bytes.' % most)
    try:
        text.encode('ascii')  # all else is sent as %XX
        lists = parse_qs(
            text, keep_blank_values=True, errors='strict', max_num_fields=MOST_FIELDS
        )
        values = {name: value for name, (value,) in lists.items()}
    except ValueError:
        raise Refused(
            400, 'Fields that are no UTF-8 text, came twice, or are too many.'
        ) from None
    if '\0' in ''.join(values.values()):
        raise Refused(400, 'A field with a byte NUL.')
    return values


def throw_away_body(environ):
    """Read a body that nobody wanted, up to some size: a server that can't send all of
    it to us may cut off our answer (Apache's mod_cgid does)."""
    length = environ.get('CONTENT_LENGTH') or ''
    left = min(int(length), 4 * MOST_BODY) if is_length(length) else 0
    with suppress(OSError):
        while left > 0 and (piece := environ['wsgi.input'].read(min(left, 65536))):
            left -= len(piece)


def is_length(text):
    return re.fullmatch('[0-9]{1,15}', text) is not None


def is_loopback(address):
    """Whether an address is of this machine only."""
    return re.fullmatch(r'::1|127(\.[0-9]{1,3}){3}', address or '') is not None


def secret(config):
    """The secret that only the page knows, made by whoever needs it first. Linked, not
    renamed: of two that make it at once the first wins, and both read it whole."""
    path = os.path.join(config.log_location, 'web.secret')
    try:
        if not os.path.exists(path):
            os.makedirs(config.log_location, exist_ok=True)
            handle, made = tempfile.mkstemp('', 'web.secret.', config.log_location)
            with open(handle, 'w') as file:
                file.write(os.urandom(32).hex())
            with suppress(FileExistsError):
                os.link(made, path)
            os.unlink(made)
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), 'rb') as file:
            about, value = os.fstat(file.fileno()), file.read(100)
    except OSError as error:
        raise dc.Problem(dc.line_of(error)) from None
    if about.st_uid != os.geteuid() or about.st_mode & 0o077 or len(value) != 64:
        raise dc.Problem('%s: is not a secret of this user alone; remove it' % path)
    return value
