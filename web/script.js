// Adds to pages that work without it: they keep themselves fresh and say when they can't,
// a list that follows what is typed, countdowns, a log that grows, and a preview.
'use strict';

const find = (selector, root = document) => root.querySelector(selector);
const PATIENCE = 8000; // ms that an answer may take
const EVERY = 10000; // ms between two questions
let ahead = Number(document.body.dataset.now) - Date.now() / 1000; // of us: the server's clock

// A page of ours. Throws what there is to say if there is none.
async function fetchPage(url) {
  const answer = await fetch(url, {signal: AbortSignal.timeout(PATIENCE)})
    .catch(() => { throw new Error('no answer'); });
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  if (!answer.ok || !find('#truth', page))
    throw new Error(find('h1', page)?.textContent || `answer ${answer.status}`);
  return page;
}

// Put a part of another page in place of ours; whoever was in it stays where they were,
// and what was opened or chosen stays so.
function replacePart(selector, page) {
  const ours = find(selector), theirs = find(selector, page), focus = document.activeElement;
  const key = ours.contains(focus) && ['id', 'href', 'formaction', 'data-job'].map(
    name => focus.getAttribute(name) && `[${name}="${CSS.escape(focus.getAttribute(name))}"]`
  ).find(Boolean);
  for (const [kind, property] of [['details', 'open'], ['input[type=checkbox]', 'checked']])
    for (const held of ours.querySelectorAll(kind))
      for (const same of theirs.querySelectorAll(held.id ? `#${CSS.escape(held.id)}` : kind))
        if (held[property] && (held.id || same.textContent === held.textContent))
          same[property] = true;
  const growing = '#log[data-live="1"]'; // it follows by itself
  if (find(growing, theirs)) find(growing, theirs).replaceWith(find('#log', ours));
  ours.replaceWith(document.adoptNode(theirs));
  if (key) find(`${selector} ${key}:not([tabindex="-1"])`)?.focus({preventScroll: true});
  countDown();
}

// "in 4 min", as the server says it. That something is late, only the server says.
function far(seconds) {
  for (const [size, unit] of [[86400, 'days'], [3600, 'h'], [60, 'min'], [1, 's']])
    if (seconds >= 2 * size || size === 1) return `in ${Math.floor(seconds / size)} ${unit}`;
}

function countDown() {
  const now = Date.now() / 1000 + ahead;
  for (const time of document.querySelectorAll('time[data-at]')) {
    const left = Math.ceil(Number(time.dataset.at) - now);
    if (left > 0) time.textContent = far(left);
    else if (time.textContent.startsWith('in ')) time.textContent = 'now';
  }
  for (const time of document.querySelectorAll('time[data-since]')) { // a run goes on
    const seconds = Math.max(0, Math.floor(now - Number(time.dataset.since)));
    const [size, unit, part, name] = seconds < 3600 ? [60, 'min', 1, 's'] : [3600, 'h', 60, 'min'];
    const rest = `${Math.floor(seconds % size / part)} ${name}`;
    time.textContent = seconds < 60 ? rest : `${Math.floor(seconds / size)} ${unit} ${rest}`;
  }
}
countDown();
setInterval(countDown, 1000);

// Every page asks again how things are, and says so while it gets no answer.
const main = find('#main'), stale = find('#stale');
const search = find('#search');
let asked = 0, shown = Date.now();

function tell(problem) {
  const since = `since ${find('#truth').dataset.clock}`;
  stale.textContent = problem === 'no answer'
    ? `Not up to date: no answer ${since}` : `Not up to date ${since}: ${problem}`;
  stale.hidden = !problem;
  document.body.classList.toggle('stale', Boolean(problem));
}

async function load(url, typed) {
  const mine = ++asked;
  let page;
  try {
    page = await fetchPage(url);
  } catch (error) {
    if (mine === asked) tell(error.message);
    return;
  }
  if (mine !== asked) return; // older than a later question
  const part = main.dataset.refresh;
  const busy = part && !typed && isBusy(find(part));
  if (busy && Date.now() - shown > 3 * EVERY) return tell(busy);
  ahead = Number(page.body.dataset.now) - Date.now() / 1000;
  document.title = page.title;
  find('#icon').href = find('#icon', page).href;
  if (busy) find('#truth', page).dataset.clock = find('#truth').dataset.clock;
  replacePart('#truth', page);
  replacePart('footer', page);
  if (part && !busy) {
    replacePart(part, page);
    shown = Date.now();
  }
  tell('');
  return page;
}

// What keeps a part from being put anew.
function isBusy(part) {
  if (find(':active', part)) return 'a button is held';
  if (find('#content')?.contains(getSelection().focusNode) && String(getSelection()))
    return 'text is selected';
  if (find(':is(input:not([type=checkbox]), select, textarea):focus', part))
    return 'a field is being filled in';
}

const refresh = () => {
  const typing = search && search.value !== search.defaultValue;
  if (!document.hidden && !typing) load(location.href);
};
if (stale) {
  setInterval(refresh, EVERY);
  document.addEventListener('visibilitychange', refresh);
}

// The list of jobs: what is typed filters the rows that are here at once, and then the
// server says which there are.
if (search) {
  let waiting;
  const go = async url => {
    const page = await load(url, true);
    if (!page) return;
    history.replaceState(null, '', url);
    for (const name of ['state', 'sort', 'order'])
      search.form.elements[name].value = search.form.elements[name].defaultValue =
        find(`input[name=${name}]`, page).value;
  };
  const asForm = () => {
    const fields = [...new FormData(search.form)].filter(([, value]) => value);
    const query = new URLSearchParams(fields).toString();
    return search.form.getAttribute('action') + (query && '?' + query);
  };
  const plain = word => word && !/^(failed|running|host:.*)$/.test(word);
  search.addEventListener('input', () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(plain);
    for (const row of document.querySelectorAll('#jobs tbody tr')) {
      const text = (row.textContent + find('code', row).title).toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
    clearTimeout(waiting);
    waiting = setTimeout(() => go(asForm()), 250);
  });
  document.addEventListener('click', event => {
    const link = event.target.closest('#list .filters a, #jobs thead a, #list .pager a');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(link.href);
  });
  search.form.addEventListener('submit', () => clearTimeout(waiting));
  search.addEventListener('change', () => { search.defaultValue = search.value; });
}

// The log of a run that goes on. It stays at its end for whoever is there.
const log = find('#log');
if (log && log.dataset.live === '1') {
  log.scrollTop = log.scrollHeight;
  const follow = async () => {
    let wait = 1000;
    try {
      const answer = await fetch(log.dataset.log);
      if (!answer.ok) throw new Error(answer.status);
      const text = await answer.text();
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 8;
      if (answer.headers.get('X-Run-State') === 'ended')
        return load(location.href, true);
      if (text !== log.textContent) log.textContent = text;
      if (atEnd) log.scrollTop = log.scrollHeight;
    } catch {
      wait = 5000; // the server is away
    }
    setTimeout(follow, wait);
  };
  setTimeout(follow, 1000);
}

// The preview, while the form is filled in.
const form = find('#job-form');
if (form) {
  let waiting, asked = 0;
  const names = ['kind', 'frequency', 'schedule', 'start_anchor', 'stop_anchor', 'time_zone'];
  const preview = async () => {
    const mine = ++asked, query = new URLSearchParams();
    for (const name of names)
      if (form.elements[name].value) query.set(name, form.elements[name].value);
    if (form.dataset.id) query.set('id', form.dataset.id);
    const answer = await fetch(`${form.dataset.preview}?${query}`).catch(() => null);
    if (!answer?.ok || mine !== asked) return;
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    find('#preview').replaceChildren(...page.body.childNodes);
  };
  form.addEventListener('input', event => {
    // Whoever fills in a schedule means it.
    const kind = find(`#kind-${event.target.name}`);
    if (kind) kind.checked = true;
    event.target.removeAttribute('aria-invalid'); // it was wrong as it was sent
    find(`#${event.target.id}-error`)?.remove();
    clearTimeout(waiting);
    waiting = setTimeout(preview, 300);
  });
  form.addEventListener('click', event => { // a chip fills the field, and leaves the others
    const cron = event.target.dataset.cron, field = form.elements.schedule;
    if (!cron || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    field.value = cron;
    field.dispatchEvent(new Event('input', {bubbles: true}));
    field.focus();
  });
}
