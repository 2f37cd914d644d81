"""What the READMEs tell people to type works, and what they link to is there."""

import ast
import glob
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import walk
from conftest import ROOT, dc

READMES = sorted(glob.glob(ROOT + '/**/README.md', recursive=True))
READMES = [path for path in READMES if '/.' not in path[len(ROOT) :]]
TEXT = dc.read_text(ROOT + '/README.md')
FAKE_CRONTAB = '''#!/bin/sh
case $1 in
-l) cat "$HOME/table" ;;
-) cat > "$HOME/new" && mv "$HOME/new" "$HOME/table" ;;
*) exit 1 ;;
esac
'''


def part(heading):
    """The text below a heading of README.md."""
    return TEXT.split('\n%s\n' % heading)[1].split('\n## ')[0]


def anchors(path):
    """The names of a README's headings, as GitHub makes them."""
    titles = re.findall(r'(?m)^#+ (.+)$', dc.read_text(path))
    return [re.sub(r'[^\w -]', '', title).replace(' ', '-').lower() for title in titles]


def test_links_lead_somewhere():
    for path in READMES:
        links = re.findall(r'\]\(([^)\s]+)\)', dc.read_text(path))
        links += re.findall(r'(?:src|srcset)="([^"]+)"', dc.read_text(path))
        for link in links:
            name, _, anchor = link.partition('#')
            target = os.path.join(os.path.dirname(path), name) if name else path
            assert os.path.exists(target), (path, link)
            if anchor:
                assert anchor in anchors(target), (path, link)


def test_five_minutes_on_one_host(tmp_path):
    """Its commands as they stand, in a copy, with a crontab that is a file; then cron's
    line."""
    block = re.search(r'(?m)(?:^    .*\n)+', part('## Five minutes on one host'))[0]
    assert 'add --every 1' in block
    assert '| crontab -' in block
    for name in 'bin', 'home', 'copy':
        os.mkdir(str(tmp_path / name))
    (tmp_path / 'bin' / 'crontab').write_text(FAKE_CRONTAB)
    os.chmod(str(tmp_path / 'bin' / 'crontab'), 0o755)
    copy = str(tmp_path / 'copy')
    for name in 'distributed_cron.py', 'distributed_cron.yml':
        shutil.copy(os.path.join(ROOT, name), copy)
    with open(copy + '/distributed_cron.yml') as file:
        text = file.read()
    with open(copy + '/distributed_cron.yml', 'w') as file:
        file.write(re.sub('(?m)^    location: .*', '    location: log', text))
    environment = {
        'HOME': str(tmp_path / 'home'),
        'PATH': '%s:%s:/usr/bin:/bin'
        % (tmp_path / 'bin', os.path.dirname(sys.executable)),
    }

    def run(script):
        return subprocess.run(
            ['/bin/sh', '-c', script],
            cwd=copy,
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout.decode()

    assert 'job 1, next run' in run(re.sub('(?m)^    ', '', block))
    line = run('crontab -l')
    assert line.startswith('* * * * * /')
    run(line[len('* * * * * ') :])
    assert '  ok      say hello  ' in run('./distributed_cron.py list')
    assert 'hello' in run('./distributed_cron.py history')


def test_the_rosetta_stone(sqlite_place):
    rows = re.findall(r'(?m)^\| .* \| `(add .*)` \|$', part('## Rosetta stone'))
    assert len(rows) == 15
    for row in rows:
        assert sqlite_place.run(*shlex.split(row)).startswith('job ')


def test_the_walk_finds_what_it_types():
    """Each command and block of README.md that tests/walk.py names is there, once."""
    tree = ast.parse(dc.read_text(walk.__file__))
    calls = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, 'id', '') in ('block', 'command')
    ]
    assert len(calls) > 20
    for call in calls:
        assert eval(call, vars(walk)), call


def test_each_block_of_the_steps_is_walked():
    """Also a block that is new."""
    tree = ast.parse(dc.read_text(walk.__file__))
    walked = {
        eval(ast.unparse(node), vars(walk)).text
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'block'
    }
    for heading in (walk.FIVE_MINUTES, walk.SEVERAL, walk.POSTGRESQL, walk.KEEPING):
        blocks = re.findall(r'(?m)(?:^    .*\n)+', walk.part(heading))
        for text in blocks:
            assert re.sub('(?m)^    ', '', text) in walked, text


@pytest.mark.skipif(not shutil.which('systemd-analyze'), reason='no systemd here')
def test_systemd_finds_nothing_wrong_with_the_service(tmp_path):
    text = walk.block(walk.SEVERAL, '6b.').text
    program = re.search(r'(?m)^ExecStart=(\S+)', text)[1]
    unit = tmp_path / 'distributed_cron.service'

    def said_of(text):
        unit.write_text(text)
        done = subprocess.run(
            ['systemd-analyze', 'verify', str(unit)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout.decode()

    text = text.replace(program, '/bin/true')  # it must be there
    assert said_of(text) == ''
    assert 'Umask' in said_of(text.replace('UMask', 'Umask'))


def test_the_readme_takes_five_minutes():
    """350 lines were meant. More are the new features': what crontab can't say (10), jobs
    in a repository (17), alerts (10), signed jobs (31), whose bytes others must be able to
    sign, and what others do under the same faults (12)."""
    assert len(TEXT.splitlines()) <= 437
