"""The sections of the program: their order, their length, and which may use which.

Every name is resolved by its scope, so that a constant, a base class, a decorator or a
function that is only handed on counts as much as a call.
"""

import ast
import re
import symtable
from collections import Counter

import pytest
from conftest import SCRIPT

ABOVE = [
    'words',
    'worker',
    'memory',
    'runner',
    'state',
    'signature',
    'claims',
    'processes',
    'live',
    'store',
    'endings',
    'notes',
    'plans',
    'hosts',
    'schedule',
    'fields',
    'dialects',
    'sql',
    'drivers',
    'trust',
    'config',
    'keys',
]
SHARED = [
    'options',
    'columns',
    'jobs',
    'status',
    'display',
]  # by the commands and the web page
BELOW = [
    *SHARED,
    'setup',
    'schema',
    'tables',
    'commands',
    'lists',
    'reports',
    'why',
    'pausing',
    'alert',
    'messages',
    'troubles',
    'check',
    'sign',
    'crontab',
    'apply',
    'files',
    'demo',
]
ORDER = ABOVE + BELOW  # the banner stands between them
LONGEST = 350  # lines of a section
HEADING = re.compile(r'(?m)^#{88}\n# (\w+): .*\n#{88}$')
BANNER = re.compile(r'(?m)^# = banner: .*$')


def sections_of(text):
    """(name, number of its first line) of each section, in the order of the file."""
    return [
        (found[1], text.count('\n', 0, found.start()) + 1)
        for found in HEADING.finditer(text)
    ]


def section_at(sections, line):
    """The section in which a line stands; None above the first."""
    found = None
    for name, first in sections:
        if first <= line:
            found = name
    return found


def scopes_of(table):
    """A scope and all that are in it."""
    yield table
    for inner in table.get_children():
        yield from scopes_of(inner)


def names_of(statement):
    """(what a statement of the module defines, the global names to which it refers)."""
    top = symtable.symtable(ast.unparse(statement), 'statement', 'exec')
    defined = {
        symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned()
    }
    used = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    for scope in scopes_of(top):
        if scope is not top:
            used |= {
                symbol.get_name()
                for symbol in scope.get_symbols()
                if symbol.is_global()
            }
    return defined, used


def is_start(statement):
    """Whether it is the last lines of a script, which belong to no section."""
    return isinstance(statement, ast.If) and '__name__' in ast.unparse(statement.test)


def may_use(user, used):
    """Whether a section may refer to a name of another."""
    if used in (user, 'words'):
        return True
    if user == 'words':
        return False
    if user in BELOW and used in (*ABOVE, *SHARED):
        return True
    same_side = (user in ABOVE) == (used in ABOVE)
    return same_side and ORDER.index(used) > ORDER.index(user)


def violations(text):
    """References that are not allowed, each as 'section:name -> section:name'."""
    sections = sections_of(text)
    home, references = {}, []
    for statement in ast.parse(text).body:
        section = section_at(sections, statement.lineno)
        defined, used = names_of(statement)
        if section and not is_start(statement):
            home.update(dict.fromkeys(defined, section))
            label = getattr(statement, 'name', None) or ', '.join(sorted(defined))
            references += [(section, label, name) for name in used]
    return {
        '%s:%s -> %s:%s' % (section, label, home[name], name)
        for section, label, name in references
        if name in home and not may_use(section, home[name])
    }


@pytest.fixture(scope='module')
def text():
    with open(SCRIPT, encoding='utf-8') as file:
        return file.read()


def test_the_sections_stand_in_their_order(text):
    sections = sections_of(text)
    assert [name for name, _ in sections] == ORDER
    banner = text.count('\n', 0, BANNER.search(text).start()) + 1
    assert section_at(sections, banner) == ABOVE[-1]
    assert dict(sections)[BELOW[0]] > banner


def test_the_docstring_lists_the_sections(text):
    docstring = ast.get_docstring(ast.parse(text), clean=False)
    listed = [
        name for name in re.findall(r'(?m)^    (\w+)  +\S', docstring) if name in ORDER
    ]
    assert listed == ORDER


def test_no_section_is_too_long(text):
    sections = sections_of(text)
    lines = Counter(
        section_at(sections, number) for number in range(1, text.count('\n') + 1)
    )
    del lines[None]
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_no_name_is_defined_twice(text):
    """The second would silently be what the section with the first one uses, too."""
    count = Counter(
        name for statement in ast.parse(text).body for name in names_of(statement)[0]
    )
    assert {name for name, times in count.items() if times > 1} == set()


def test_references_go_downward_only(text):
    assert sorted(violations(text)) == []


def example(*sections):
    """A program of sections, each with its code."""
    line = '#' * 88
    return '\n'.join(
        '%s\n# %s: an example\n%s\n%s' % (line, name, line, code)
        for name, code in sections
    )


@pytest.mark.parametrize(
    'code',
    [
        'f = partial(upper)',
        'def f(x=upper): pass',
        '@upper\ndef f(): pass',
        'class F(upper): pass',
        'def f():\n    return [upper(x) for x in ()]',
        'class F:\n    def f(self):\n        return lambda: upper',
        'f = {upper: 1}',
    ],
)
def test_a_reference_upward_is_seen_in_any_form(code):
    text = example(('worker', 'def upper(): pass'), ('store', code))
    assert {found.lower() for found in violations(text)} == {'store:f -> worker:upper'}


@pytest.mark.parametrize(
    'code',
    [
        'def f(upper): return upper',
        'def f():\n    upper = 1\n    return upper',
        'def f(x): return x.upper + g(upper=1)',
        'f = [upper for upper in ()]',
        'class F:\n    upper = 1\n    x = upper',
    ],
)
def test_a_name_of_another_scope_is_no_reference(code):
    text = example(('worker', 'def upper(): pass'), ('store', code))
    assert violations(text) == set()


def test_the_rule():
    assert may_use('worker', 'store') and not may_use('store', 'worker')
    assert may_use('config', 'words') and not may_use('words', 'config')
    assert may_use('demo', 'worker') and not may_use('worker', 'demo')
    assert may_use('demo', 'jobs') and not may_use('demo', 'commands')
    assert not may_use('config', 'jobs')
