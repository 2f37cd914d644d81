"""The search of the list: words, how jobs are, hosts, tags and numbers."""

from urllib.parse import quote

import pytest
from conftest import dc
from test_web import EVIL, Browser, Page, add_history, jobs_of, start_run


def found(place, text):
    """The ids that a search finds, in the order of the list."""
    page = Browser(place).get('/?search_string=' + quote(text))
    Page(page)
    return jobs_of(page)


def test_words_are_found_each_for_itself(place):
    place.add('flush', description='mail queue')
    place.add('/bin/Mail', description='tidy')
    place.add('tidy', description='queue')
    assert found(place, 'queue mail') == found(place, 'mail queue') == [1]
    assert found(place, ' MAIL\t tidy ') == [2]
    assert found(place, 'tidy') == [2, 3] and found(place, 'mail nothing') == []
    assert found(place, ' ') == [1, 2, 3]


def test_words_are_found_as_they_stand_whatever_their_letters(place):
    """SQLite knows no capitals but A to Z."""
    place.add('tidy', description='Übung der ÄRGER', run_on='ulm')
    place.add('tidy', description='#Größe OF')
    assert found(place, 'ÄRGER Übung') == [1]
    assert found(place, '#Größe of') == [2]
    assert 'Übung' in place.run('list', 'Übung', 'DER')
    assert found(place, 'HOST:Ulm') == [1]


@pytest.mark.parametrize(
    'words, job',
    [
        ('every 10 minutes', 2),
        ('minutes 10', 2),
        ('every 15 minutes', 3),
        ('every day', 4),
        ('*/15', 3),
    ],
)
def test_what_the_column_shows_is_found(place, words, job):
    place.add(description='nothing', frequency=60)
    place.add(description='nothing', frequency=10)
    place.add(description='nothing', schedule='*/15 * * * *')
    place.add(description='nothing', frequency=1440)
    browser = Browser(place)
    if words[0] != '*' and words != 'minutes 10':
        assert words in browser.get()
    assert found(place, words) == [job]


def test_a_number_is_an_id_first(place):
    for number in range(1, 15):
        place.add('sleep 4', description='copy %d' % number)
    ids = found(place, '4')
    assert ids[0] == 4 and len(ids) == 14
    assert found(place, '12')[0] == 12 and found(place, '12 4') == [12]
    assert found(place, '99') == [] and found(place, '999999999999') == []


def test_how_jobs_are(place):
    for status in ('Success', 'ERROR: exit 1', dc.LOST, 'ERROR: stopped'):
        place.add(last_status=status, description='the failed ones')
    start_run(place, 1)
    assert found(place, 'failed') == found(place, 'failing') == [2, 3]
    assert found(place, 'running') == [1] and found(place, 'failed running') == []
    assert found(place, 'lost failed') == [3]


def test_on_a_host(place):
    for worker in ('web-01-77', 'web-01-x-77', 'web-011-7', 'WEB-01-8', 'x-web-01-7'):
        add_history(place, place.add(), 1, worker=worker)
    place.add(run_on='web-01')
    assert found(place, 'host:web-01') == [1, 4, 6]
    assert found(place, 'host:Web-01-X') == [2]
    assert found(place, 'host:web') == found(place, 'host:%') == []
    assert found(place, 'host:') == []  # a text, and nobody has it


def test_tags(place):
    for description in (
        '#backup of the shop',
        'all #backups',
        'nightly #Backup, #db',
        'C#backup? no',
        'ends in #backup',
        'a#b #a_b',
    ):
        place.add(description=description)
    assert found(place, '#backup') == [1, 3, 5]
    assert found(place, '#backup #db') == [3]
    assert found(place, '#backup shop') == [1]
    assert found(place, '#a_b') == [6] and found(place, '#axb') == []
    page = Browser(place).get()
    for tag in ('%23backup', '%23db', '%23a_b'):
        assert 'search_string=%s"' % tag in page, tag
    assert 'search_string=%23b"' not in page


def test_links_and_tags_of_a_description(sqlite_place):
    """They are links of their own; nothing else becomes one."""
    sqlite_place.add(
        description='#ops see https://wiki.example.com/a?b=1&c=%22x, javascript:alert(1)'
        ' https://"onclick=alert(1) http://x.example/<b> ftp://y'
    )
    for path in '/', '/job/1':
        text = Browser(sqlite_place).get(path)
        assert (
            'href="https://wiki.example.com/a?b=1&amp;c=%22x" rel="noopener noreferrer"'
            in text
        )
        assert 'href="http://x.example/" ' in text and 'x.example/<b>' not in text
        assert text.count('class="out"') == 2
        assert 'href="javascript' not in text and ' onclick' not in text


@pytest.mark.parametrize(
    'text',
    [
        EVIL,
        "' OR 1=1 --",
        '{utc} :now %s',
        ':word_0 :below',
        'host:{utc}:x',
        "host:'",
        '#{now}',
        '%_!\\',
        '\u202e\x1b[1m',
        'failed ' * 28,
        'a b c d e f g h i j k l m n o p q r s t u v w x y z ' * 3,
        '0',
        '007',
        '\u0663',
    ],
)
def test_hostile_words_find_nothing(place, text):
    place.add('true', description='plain', last_status='ERROR: exit 1')
    ids = found(place, text[:200])
    assert ids == ([1] if text.startswith('failed') else [])
