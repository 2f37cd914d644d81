"""The web page in a real browser: Debian's chromium, driven by selenium."""

import contextlib
import os
import shutil
import signal
from importlib.util import find_spec

import pytest
import screenshots
from conftest import dc, wait_until
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

OPTIONS = (
    'headless',
    'no-sandbox',
    'disable-gpu',
    'disable-quic',
    'no-first-run',
    'disable-background-networking',
    'disable-component-update',
    'disable-sync',
)
LOOKS = 'prefers-color-scheme'


pytestmark = pytest.mark.slow


class Browser(webdriver.Chrome):
    """A chromium with a new profile; css finds what there must be one of."""

    def __init__(self, folder, script=True):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which('chromium')
        for option in (*OPTIONS, 'window-size=1280,1000', 'user-data-dir=%s' % folder):
            options.add_argument('--' + option)
        if not script:
            options.add_experimental_option(
                'prefs', {'profile.managed_default_content_settings.javascript': 2}
            )
        options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
        super().__init__(options, webdriver.ChromeService(shutil.which('chromedriver')))
        self.set_page_load_timeout(60)

    def css(self, selector):
        return wait_until(lambda: self.all(selector), 10, selector)[0]

    def all(self, selector):
        return self.find_elements('css selector', selector)

    def text(self, selector='body'):
        """What an element shows; '' while the page is being changed."""
        with contextlib.suppress(WebDriverException):
            return ' '.join(found.text for found in self.all(selector))
        return ''

    def wait_text(self, text, selector='body', seconds=20):
        wait_until(
            lambda: text in self.text(selector), seconds, '%r in %s' % (text, selector)
        )

    def fill(self, **values):
        """Type into the fields of the form on the page."""
        for name, value in values.items():
            field = self.css('#job-form [name=%s]:not([type=hidden])' % name)
            field.clear()
            field.send_keys(value)

    def click(self, selector):
        """Click on what there must be one of, again if it was just put anew."""

        def clicked():
            with contextlib.suppress(WebDriverException):
                self.css(selector).click()
                return True

        wait_until(clicked, 10, 'a click on ' + selector)

    def press(self, value, within=''):
        """Press the button of an action; returns once the next page is there."""
        if self.all('%s .menu:not([open]) button[value="%s"]' % (within, value)):
            self.click(within + ' .menu summary')
        self.leave(lambda: self.click('%s button[value="%s"]' % (within, value)))

    def leave(self, act):
        """Do what leads to another page."""
        page = self.css('html')
        act()
        wait_until(lambda: is_gone(page), 20, 'another page')
        wait_until(lambda: self.all('body'), 20, 'its body')

    def new_window(self, url):
        """Open another tab; returns its handle."""
        self.switch_to.new_window('tab')
        self.get(url)
        return self.current_window_handle

    def close_others(self):
        """Close all tabs but the first."""
        first, *others = self.window_handles
        for other in others:
            self.switch_to.window(other)
            self.close()
        self.switch_to.window(first)

    def emulate(self, command, **values):
        self.execute_cdp_cmd('Emulation.' + command, values)

    def check(self):
        """No error on the console; a violation of the page's policy would be one."""
        assert self.get_log('browser') == []


def is_gone(element):
    try:
        element.is_enabled()
    except WebDriverException:  # stale, or in a document that is just going
        return True


@pytest.fixture(scope='module')
def shared_browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp('chromium'))
    yield browser
    browser.quit()


@pytest.fixture
def browser(shared_browser):
    """The browser, as if it were just started."""
    shared_browser.get('about:blank')
    shared_browser.get_log('browser')
    shared_browser.emulate('clearDeviceMetricsOverride')
    shared_browser.emulate('setEmulatedMedia', features=[])
    yield shared_browser
    shared_browser.check()


@pytest.fixture
def site(place, browser):
    """The page, served alone and open in the browser; the place it shows."""
    place.visitor = place.page()
    browser.get(place.visitor.start)
    return place


def on(engine):
    return pytest.mark.parametrize('place', [engine], indirect=True)


@pytest.fixture
def some_jobs(site, browser):
    fill_some(site)
    browser.refresh()
    return site


def fill_some(site):
    """Jobs in several states, with a history."""
    for number, command in enumerate(('echo fine', 'echo bad; exit 3', 'echo also')):
        site.add(command, description='job number %d' % number, frequency=600)
    site.run('run')
    site.add(active=0, description='sleeping')
    site.store.change("UPDATE job SET last_status = 'ERROR: lost: x' WHERE id = 3")


# A job's life


def add_a_job(browser, **more):
    browser.leave(lambda: browser.click('a[href$="job/add"]'))
    browser.fill(description='counts slowly', **more)


def life_of_a_job(site, browser, reload):
    """Add, run, watch, edit, disable and delete a job, by what the page shows; reload
    is called where a page without JavaScript stays as it is."""
    browser.fill(command='for n in 1 2 3 4 5 6; do echo line $n; sleep 1; done')
    browser.press('save', '#job-form')
    (job,) = site.sql('SELECT * FROM job')
    assert (job.description, job.schedule, job.frequency, job.active) == (
        'counts slowly',
        '30 2 * * mon-fri',
        60,
        1,
    )
    assert site.runs() == []
    browser.get(site.visitor.url)
    row = 'tr[data-job="%d"]' % job.id
    browser.press('run-now', row)
    site.worker(os.uname().nodename)  # the page reads logs of its own host only
    wait_until(lambda: site.job(job.id).run_token, what='the start')
    browser.get('%srun/%d/1' % (site.visitor.url, job.id))
    seen = []

    def growing():
        reload()
        seen.append(browser.text('#log').count('line '))
        return 'Success' in browser.text('main') or 'success' in browser.text('main')

    wait_until(growing, 30, 'success')
    assert len(set(seen) - {0, 6}) >= 2, (
        seen
    )  # it was seen half written, more than once
    assert browser.text('#log').count('line ') == 6
    browser.get(site.visitor.url)
    browser.wait_text('Success', row + ' ')
    assert 'counts slowly' in browser.text(row)

    browser.get('%sjob/%d/edit' % (site.visitor.url, job.id))
    browser.fill(description='counts no more')
    browser.press('save', '#job-form')
    assert site.job(job.id).description == 'counts no more'
    browser.get(site.visitor.url)
    browser.press('disable', row)
    assert site.job(job.id).active == 0
    browser.get(site.visitor.url)
    assert 'disabled' in browser.text(row + ' td.status')
    browser.press('enable', row)
    assert site.job(job.id).active == 1

    browser.get('%sjob/%d/delete' % (site.visitor.url, job.id))
    assert 'counts no more' in browser.text() and site.job(job.id)
    browser.press('delete', 'main form')
    assert site.sql('SELECT * FROM job') == []
    assert 'counts no more' not in browser.text('#jobs')


@pytest.mark.parametrize('place', ['sqlite', 'postgresql'], indirect=True)
def test_the_life_of_a_job(site, browser):
    add_a_job(browser)
    browser.click('[name=kind][value=schedule]')
    preview = 0
    for typed, said in (('30 2 * * ', None), ('mon-fri', '02:30')):
        browser.css('#job-form [name=schedule]').send_keys(typed)
        if said:
            browser.wait_text(said, '#preview')
            preview = browser.text('#preview')
    assert preview.count('02:30:00') >= 5, preview  # the next five times
    browser.css('#job-form [name=schedule]').send_keys('x')
    wait_until(lambda: browser.text('#preview') != preview, 10, 'another preview')
    browser.css('#job-form [name=schedule]').send_keys(Keys.BACKSPACE)
    wait_until(lambda: browser.text('#preview') == preview, 10, 'the first preview')
    life_of_a_job(site, browser, lambda: None)


@on('mysql')
def test_the_same_without_javascript(place, tmp_path):
    browser = Browser(tmp_path / 'chromium', script=False)
    try:
        browser.get('data:text/html,<p>off<script>document.body.append("on")</script>')
        assert browser.text() == 'off'
        place.visitor = place.page()
        browser.get(place.visitor.start)
        add_a_job(browser, schedule='30 2 * * mon-fri', command='true')
        browser.click('[name=kind][value=schedule]')
        browser.press('preview', '#job-form')
        assert browser.text('#preview').count('02:30:00') >= 5
        assert place.sql('SELECT * FROM job') == []
        life_of_a_job(place, browser, browser.refresh)
        browser.check()
    finally:
        browser.quit()


@on('sqlite')
def test_an_error_stands_at_its_field(site, browser):
    add_a_job(browser, schedule='61 * * * *', command='true')
    browser.click('[name=kind][value=schedule]')
    browser.press('save', '#job-form')
    field = browser.css('#job-form [name=schedule]')
    assert field.get_attribute('value') == '61 * * * *'
    assert field.get_attribute('aria-invalid') == 'true'
    about = ' '.join(
        browser.text('#' + id) for id in field.get_attribute('aria-describedby').split()
    )
    assert '61' in about
    assert site.sql('SELECT * FROM job') == []
    log = browser.get_log('browser')  # the browser itself notes the status
    assert all('status of 4' in entry['message'] for entry in log), log


@on('sqlite')
def test_a_chip_fills_the_schedule_and_leaves_the_rest(site, browser):
    add_a_job(browser, command='true')
    browser.click('.chips a[data-cron="0 20 LW * *"]')
    assert browser.css('#schedule').get_attribute('value') == '0 20 LW * *'
    assert browser.css('#kind-schedule').is_selected()
    assert browser.css('#description').get_attribute('value') == 'counts slowly'
    browser.wait_text('last working day, 20:00', '#preview')
    browser.press('save', '#job-form')
    assert site.job(1).schedule == '0 20 LW * *'


# The list


@on('sqlite')
def test_search_as_you_type(some_jobs, browser):
    browser.css('#search').send_keys('exit number')
    wait_until(lambda: shown(browser) == ['2'], 10, 'one row')
    browser.css('#search').send_keys(Keys.CONTROL, 'a')
    browser.css('#search').send_keys(Keys.DELETE)
    wait_until(lambda: len(shown(browser)) == 4, 10, 'all rows')


def shown(browser):
    """Ids of the jobs that the list shows, in its order; none while it is put anew."""
    with contextlib.suppress(WebDriverException):
        return [
            row.get_attribute('data-job')
            for row in browser.all('#jobs tr[data-job]')
            if row.is_displayed()
        ]
    return []


@on('sqlite')
def test_columns_sort_and_states_filter(some_jobs, browser):
    def wait_for(*jobs):
        wait_until(lambda: shown(browser) == list(jobs), 10, 'jobs %s' % (jobs,))

    wait_until(lambda: set(shown(browser)[:2]) == {'2', '3'}, 10, 'trouble first')
    browser.click('#jobs th a[href*="sort=description"]')
    wait_for('1', '2', '3', '4')  # job number 0 …, sleeping
    browser.wait_text('Job', '#jobs th[aria-sort=ascending]')
    browser.click('#jobs th a[href*="sort=description"]')
    wait_for('4', '3', '2', '1')
    browser.click('a[href*="state=failing"]')
    wait_for('3', '2')
    browser.refresh()  # the address is that of what one sees
    wait_for('3', '2')


@on('sqlite')
def test_the_icon_tells_of_failing_jobs(site, browser):
    site.add('true')
    site.run('run')
    browser.refresh()

    def icon():
        return browser.css('link[rel~=icon]').get_attribute('href')

    well = icon()
    site.add('false')
    site.run('run')
    browser.refresh()
    assert icon() != well


# Who uses it how


@on('sqlite')
def test_by_keyboard_alone(some_jobs, browser):
    """Tab reaches Run now, one sees where one is, and Enter presses it."""
    browser.execute_script('document.body.focus()')
    for _ in range(60):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focused = browser.switch_to.active_element
        style = browser.execute_script(
            'const s = getComputedStyle(arguments[0]);'
            'return [s.outlineStyle, parseFloat(s.outlineWidth), s.boxShadow]',
            focused,
        )
        if focused.get_attribute('type') != 'checkbox':
            assert style[0] != 'none' and style[1] >= 1 or style[2] != 'none', (
                focused.get_attribute('outerHTML'),
                style,
            )
        if focused.get_attribute('value') == 'run-now':
            break
    assert focused.get_attribute('value') == 'run-now'
    job = focused.find_element('xpath', 'ancestor::tr').get_attribute('data-job')
    browser.leave(lambda: focused.send_keys(Keys.ENTER))
    assert some_jobs.job(job).run_requested == 1


PATHS = (
    '',
    'job/add',
    'job/2',
    'job/2/edit',
    'job/2/delete',
    'run/2/1',
    'runs',
    'runs?result=failed&span=day',
    'ahead',
    'ahead?without=nobody',
    'hosts',
    '?search_string=nothing',
)


@on('sqlite')
@pytest.mark.parametrize('width', [360, 390, 641, 768, 1024, 1121, 1440])
def test_no_page_scrolls_sideways(some_jobs, browser, width):
    """On a phone, a tablet, and beside another window."""
    some_jobs.add(
        'x' * 300, description='y' * 200, schedule='0 7-19 1-7 jan-jun mon-fri'
    )
    browser.emulate(
        'setDeviceMetricsOverride',
        width=width,
        height=740,
        deviceScaleFactor=2,
        mobile=width < 500,
    )
    for path in (*PATHS, 'job/5', 'job/5/edit', 'job/5/delete'):
        browser.get(some_jobs.visitor.url + path)
        assert browser.execute_script('return innerWidth') == width, path
        wide = browser.execute_script('return document.documentElement.scrollWidth')
        assert wide <= width, (path, wide)
        for button in browser.all('button, input:not([type=hidden])') * (width < 500):
            small = button.is_displayed() and button.size['height'] < 24
            kind = button.get_attribute('type')
            assert not small or kind in ('radio', 'checkbox'), kind


@on('sqlite')
def test_dark_and_light(some_jobs, browser):
    def colours(look):
        browser.emulate('setEmulatedMedia', features=[{'name': LOOKS, 'value': look}])
        return browser.execute_script(
            'const s = getComputedStyle(document.body);'
            'return [s.backgroundColor, s.color].map(c => Number(c.match(/\\d+/)[0]))'
        )

    dark, light = colours('dark'), colours('light')
    assert dark[0] < 80 < 160 < dark[1] and light[1] < 80 < 160 < light[0], (
        dark,
        light,
    )


AXE = '''axe.run(document.querySelector('.menu[open]') || document,
    {rules: {'target-size': {enabled: true}}}).then(
    arguments[0], error => arguments[0]({error: `${error}`}))'''
WIDTHS = (390, 768, 1024, 1440)


@pytest.fixture
def all_states(site):
    return fill_states(site)


def fill_states(place):
    """Jobs, runs and hosts in every state that a page shows in a way of its own."""
    fill_some(place)
    now = place.store.now()
    places = (
        {'paused_until_utc': dc.text_of(now + dc.DAY), 'paused_by': 'bob'},
        {'run_token': 'x' * 32, 'run_no': 9, 'last_start': dc.text_of(now)},
        {'run_token': 'y' * 32, 'run_deadline_utc': '2020-01-01 00:00:00'},
        {'each_host': 1},
        {'next_run_utc': '2020-01-01 00:00:00'},
        {'run_on': 'nowhere', 'next_run_utc': dc.text_of(now + 60 * dc.MINUTE)},
        {'after_job': 1, 'next_run_utc': dc.text_of(dc.PARKED)},
    )
    for number, values in enumerate(places, 5):
        place.add(description='state %d #backup https://example.com/x' % number)
        names = ', '.join('%s = :%s' % (name, name) for name in values)
        text = 'UPDATE job SET %s WHERE id = %d' % (names, number)
        place.store.change(text, **values)
    for number in range(60):  # two pages of runs
        run = dc.Run(1, number + 2, None, *['2020-01-01 00:00:00'] * 2, 5 * number)
        run = run._replace(worker='a-1', status='Success', output='done', attempt=0)
        if number % 9 == 0:
            run = run._replace(status='SKIPPED: late', note='gamma was full')
        place.store.upsert('run', [run])
    place.store.change('UPDATE job SET run_no = 61 WHERE id = 1')
    host = dc.Host('away', '2020-01-01 00:00:00', 'away-1', '2.0', 8, 0, 0, 'db ssd')
    place.store.upsert('host', [host])
    until = now + 60 * dc.MINUTE
    dc.pause_hosts(place.store, 'away', until, 'bob')
    for action in 'disable', 'enable':  # stands in web.log
        place.visitor.submit('', 'job/1/' + action)
    return place


# Pages beside PATHS, and what is done on them first: a selector is clicked on, a text
# after it is typed there.
STATES = (
    ('', ()),
    ('?page=9', ()),
    ('?state=overdue', ()),
    ('?sort=description&order=desc', ()),
    ('?search_string=%23backup', ()),
    ('', ('.menu summary[aria-label^=More]',)),
    ('', ('#truth .menu summary',)),
    ('', ('#job-1', '#job-2')),
    ('job/1', ('details:not(.menu, #changes) summary', '#changes summary')),
    ('job/1?page=2', ()),
    ('job/5', ()),
    ('job/6', ()),
    ('job/7', ()),
    ('job/8', ()),
    ('run/6/9', ()),
    ('run/1/2', ()),
    ('runs?result=skipped', ()),
    ('runs?job=nothing', ()),
    ('ahead', ()),
    ('ahead?without=' + os.uname().nodename, ()),
    ('hosts', ('#hosts .menu summary',)),
    ('job/add', ('#job-form details summary',)),
    ('job/add', ('#command=true', '#schedule=61 * * * *', 'button[value=save]')),
    ('job/add', ('#command=true', '#schedule=0 2 * * *', 'button[value=preview]')),
    ('job/1/disable', ()),
    ('job/999', ()),
    ('nothing', ()),
)


def look_at(browser, width, look):
    browser.emulate('setEmulatedMedia', features=[{'name': LOOKS, 'value': look}])
    browser.emulate(
        'setDeviceMetricsOverride',
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=width < 500,
    )


def findings(browser, what):
    """What axe finds on the page that is there; of an open menu, which lies above the
    rest of it, in that."""
    package = find_spec('axe_playwright_python').submodule_search_locations[0]
    browser.execute_script(dc.read_text(os.path.join(package, 'axe.min.js')))
    result = browser.execute_async_script(AXE)
    assert result['passes'], result
    return [
        (what, violation['id'], violation['impact'], node['html'][:200])
        for violation in result['violations']
        for node in violation['nodes']
    ]


def axe_on(browser, place, pages):
    found = []
    for path, steps in pages:
        browser.get(place.visitor.url + path)
        for step in steps:
            selector, _, text = (
                step.partition('=') if step[0] == '#' else (step, '', '')
            )
            element = browser.css(selector)
            if not element.is_displayed():  # not at this width
                continue
            if text:
                element.send_keys(text)
            else:
                browser.click(selector)
        found += findings(browser, (path, *steps))
        wide = browser.execute_script(
            'return [document.documentElement.scrollWidth, innerWidth]'
        )
        assert wide[0] <= wide[1], (path, steps, wide)
    return found


@on('sqlite')
@pytest.mark.parametrize('look', ['light', 'dark'])
@pytest.mark.parametrize('width', WIDTHS)
def test_axe_finds_nothing(all_states, browser, width, look):
    """Accessibility, contrast in both looks and the size of what one clicks on included,
    as far as a program can tell. And nothing scrolls sideways."""
    look_at(browser, width, look)
    found = axe_on(browser, all_states, [*((path, ()) for path in PATHS), *STATES])
    browser.get_log('browser')  # the browser itself notes a status of 404
    assert not found, '\n'.join(map(str, found))


@on('sqlite')
@pytest.mark.parametrize('width', WIDTHS)
def test_axe_finds_nothing_without_javascript(all_states, browser, width):
    """The page's own, which the browser does not get here: axe needs it to run."""
    browser.execute_cdp_cmd('Network.enable', {})
    browser.execute_cdp_cmd('Network.setCacheDisabled', {'cacheDisabled': True})
    browser.execute_cdp_cmd('Network.setBlockedURLs', {'urls': ['*script.js*']})
    try:
        browser.get(all_states.visitor.url)
        assert not browser.execute_script('return typeof countDown == "function"')
        found = []
        for look in ('light', 'dark'):
            look_at(browser, width, look)
            found += axe_on(browser, all_states, STATES)
    finally:
        browser.execute_cdp_cmd('Network.setBlockedURLs', {'urls': []})
        browser.execute_cdp_cmd('Network.disable', {})
    browser.get_log('browser')  # that it was blocked
    assert not found, '\n'.join(map(str, found))


@on('sqlite')
@pytest.mark.parametrize('width', WIDTHS)
def test_axe_finds_nothing_for_readers_and_on_an_empty_page(place, browser, width):
    """Who may not change anything sees no buttons; a new site has no jobs."""
    place.visitor = place.page()
    found = []
    for start in (place.visitor.url, place.visitor.start):
        browser.get(start)
        for look in ('light', 'dark'):
            look_at(browser, width, look)
            paths = ('', 'runs', 'ahead', 'hosts', 'job/add')
            found += axe_on(browser, place, [(path, ()) for path in paths])
    fill_states(place)
    browser.delete_all_cookies()
    for look in ('light', 'dark'):
        look_at(browser, width, look)
        paths = ('', 'job/1', 'job/6', 'run/1/2', 'ahead', 'hosts')
        found += axe_on(browser, place, [(path, ()) for path in paths])
    browser.get_log('browser')  # the browser itself notes a status of 403
    assert not found, '\n'.join(map(str, found))


@on('sqlite')
def test_axe_finds_nothing_where_there_is_no_answer(all_states, browser):
    for look in ('light', 'dark'):
        look_at(browser, 390, look)
        browser.get(all_states.visitor.url)
        (server,) = all_states.started[-1:]
        server.send_signal(signal.SIGSTOP)
        try:
            browser.wait_text('Not up to date', '#stale', 30)
            found = findings(browser, 'stale')
        finally:
            server.send_signal(signal.SIGCONT)
        assert not found, '\n'.join(map(str, found))


@on('sqlite')
def test_the_picture_of_hosts_opens_at_its_newest_end(all_states, browser):
    look_at(browser, 390, 'light')
    browser.get(all_states.visitor.url + 'hosts')
    box = browser.css('.lanes').rect
    assert box['width'] > 900 and box['x'] + box['width'] < 390


@on('sqlite')
def test_each_page_has_a_name_and_a_language(some_jobs, browser):
    titles = set()
    paths = [path for path in PATHS if '?' not in path]
    for path in paths:
        browser.get(some_jobs.visitor.url + path)
        titles.add(browser.title)
        assert browser.css('html').get_attribute('lang') == 'en'
        assert len(browser.all('h1')) == 1 and browser.css('main')
        for table in browser.all('table'):
            assert table.find_elements('css selector', 'caption, th[scope]')
    assert len(titles) == len(paths), titles


# What it says is so.


def advance(browser, minutes):
    """Set the browser's clock ahead, as if the page had been open for so long."""
    browser.execute_script(
        'const real = Date.now; Date.now = () => real() + arguments[0] * 60000',
        minutes,
    )


@on('sqlite')
@pytest.mark.parametrize('path', ['', 'job/1', 'hosts'])
def test_only_the_server_says_that_something_is_late(some_jobs, browser, path):
    due = some_jobs.store.now() + dc.MINUTE
    some_jobs.store.change('UPDATE job SET next_run_utc = :due', due=dc.text_of(due))
    browser.get(some_jobs.visitor.url + path)
    wait_until(lambda: 'in ' in browser.text('time'), 10, 'a countdown')
    advance(browser, 5)
    wait_until(lambda: browser.text('#truth time') == 'now', 10, 'now')
    assert ' late' not in browser.text()


@on('sqlite')
def test_each_page_keeps_itself_fresh(some_jobs, browser):
    """Also the sentence at its head, its title and its icon; a form, only these."""
    url = some_jobs.visitor.url
    tabs = {
        path: browser.new_window(url + path) for path in ('job/1', 'hosts', 'job/add')
    }
    browser.switch_to.window(tabs['job/add'])
    browser.css('#description').send_keys('half a wo')
    some_jobs.store.change("UPDATE job SET last_status = 'ERROR: exit 9', active = 1")
    some_jobs.store.change("UPDATE host SET version = '7.7'")
    for path, word in (('job/1', 'exit 9'), ('hosts', '7.7'), ('job/add', 'Command')):
        browser.switch_to.window(tabs[path])
        browser.wait_text('4 jobs failing', '#truth')
        browser.wait_text(word, '#content')
        assert browser.title.startswith('(4) ')
        assert 'failing' in browser.css('#icon').get_attribute('href')
    assert browser.css('#description').get_attribute('value') == 'half a wo'
    browser.close_others()


@on('sqlite')
@pytest.mark.parametrize('path', ['', 'job/1', 'job/1/edit'])
def test_without_an_answer_a_page_says_so(some_jobs, browser, path):
    """And from when it is what one sees; until there is an answer again."""
    browser.get(some_jobs.visitor.url + path)
    clock = browser.css('#truth').get_attribute('data-clock')
    (server,) = some_jobs.started[-1:]
    server.send_signal(signal.SIGSTOP)
    try:
        browser.wait_text('Not up to date: no answer since ' + clock[:-1], '#stale', 30)
        assert opacity_of_buttons(browser) < 0.9
    finally:
        server.send_signal(signal.SIGCONT)
    wait_until(lambda: not browser.css('#stale').is_displayed(), 30, 'an answer')
    assert opacity_of_buttons(browser) == 1


def opacity_of_buttons(browser):
    return float(browser.css('button').value_of_css_property('opacity'))


@on('sqlite')
def test_without_a_database_a_page_says_so(some_jobs, browser):
    browser.get(some_jobs.visitor.url + 'job/1')
    some_jobs.store.execute('ALTER TABLE job RENAME TO gone')
    browser.wait_text('Not up to date since ', '#stale', 30)
    assert 'error log says why' in browser.text('#stale')
    some_jobs.store.execute('ALTER TABLE gone RENAME TO job')
    wait_until(lambda: not browser.css('#stale').is_displayed(), 30, 'an answer')
    browser.get_log('browser')  # the browser itself notes the status


@on('sqlite')
def test_a_corrected_field_loses_its_error(site, browser):
    add_a_job(browser, schedule='61 * * * *', command='true')
    browser.click('[name=kind][value=schedule]')
    browser.press('save', '#job-form')
    assert '61' in browser.text('#schedule-error')
    browser.fill(schedule='6 * * * *')
    browser.wait_text('06', '#preview')
    assert browser.all('#schedule-error') == []
    assert browser.css('#schedule').get_attribute('aria-invalid') is None
    browser.get_log('browser')  # the browser itself notes the status


@on('sqlite')
def test_what_one_is_at_stays_while_the_page_is_put_anew(some_jobs, browser):
    browser.get(some_jobs.visitor.url + 'job/1')
    browser.click('details summary')
    link = browser.css('#runs a')
    browser.execute_script('arguments[0].focus()', link)
    some_jobs.store.change("UPDATE job SET last_status = 'ERROR: exit 9'")
    browser.wait_text('exit 9', '.facts')
    assert browser.css('details').get_attribute('open')
    focused = browser.switch_to.active_element
    assert focused.get_attribute('href').endswith('/run/1/1')


@on('sqlite')
def test_chosen_jobs_stay_chosen_until_something_is_done(some_jobs, browser):
    assert not browser.css('#bulk').is_displayed()
    for job in (1, 3):
        browser.click('#job-%d' % job)
    assert browser.css('#bulk').is_displayed()
    some_jobs.store.change("UPDATE job SET description = 'renamed' WHERE id = 2")
    browser.wait_text('renamed', '#jobs')
    assert [box.is_selected() for box in browser.all('#jobs [type=checkbox]')].count(
        True
    ) == 2
    browser.leave(lambda: browser.click('#bulk button[formaction$="/disable"]'))
    assert '2 jobs: disabled.' in browser.text('.told')
    states = [some_jobs.job(job).active for job in (1, 2, 3)]
    assert states == [0, 1, 0]


@on('sqlite')
def test_all_is_paused_from_any_page(some_jobs, browser):
    browser.get(some_jobs.visitor.url + 'job/1/edit')
    browser.click('#truth summary')
    browser.leave(lambda: browser.click('#truth button[value="8h"]'))
    browser.wait_text('All hosts are paused until ', '#truth')
    assert set(dc.pauses(some_jobs.store)) == {'*'}
    browser.leave(lambda: browser.click('#truth button'))
    assert 'paused' not in browser.text('#truth')


@on('sqlite')
def test_a_search_shows_at_once_what_the_server_finds(some_jobs, browser):
    for words, jobs in (
        ('exit number', ['2']),
        ('failed echo also', ['3']),
        ('#x', []),
    ):
        browser.css('#search').send_keys(Keys.CONTROL, 'a')
        browser.css('#search').send_keys(words)
        wait_until(lambda jobs=jobs: shown(browser) == jobs, 10, words)
    browser.wait_text('No job matches #x')


def test_the_pictures_are_of_this_page():
    """After a change of the page: python tests/screenshots.py."""
    for picture in screenshots.PICTURES.values():
        with open(picture, 'rb') as file:
            data = file.read()
        assert screenshots.mark_of(data) == screenshots.sources(), picture
        assert len(data) < 200000
