// Adds to pages that work without it: a list that follows what is typed and keeps
// itself fresh, countdowns, a log that grows, and a preview while one types.
'use strict';

const find = (selector, root = document) => root.querySelector(selector);
const late = Number(document.body.dataset.now) - Date.now() / 1000; // the server's clock

async function fetchPage(url) {
  const answer = await fetch(url, {credentials: 'same-origin'});
  if (!answer.ok) throw new Error(answer.status);
  return new DOMParser().parseFromString(await answer.text(), 'text/html');
}

// Put a part of another page in place of ours; whoever was in it stays where they were.
function replacePart(selector, page) {
  const ours = find(selector), theirs = find(selector, page), focus = document.activeElement;
  const key = ours.contains(focus) && ['id', 'href', 'formaction', 'data-job'].map(
    name => focus.getAttribute(name) && `[${name}="${CSS.escape(focus.getAttribute(name))}"]`
  ).find(Boolean);
  ours.replaceWith(document.adoptNode(theirs));
  if (key) find(`${selector} ${key}`)?.focus({preventScroll: true});
  const icon = find('#icon'), failing = theirs.dataset.failing;
  if (failing) icon.href = failing === '1' ? icon.dataset.failing : icon.dataset.ok;
  countDown();
}

// "in 4 min", as the server says it.
function far(seconds) {
  for (const [size, unit] of [[86400, 'days'], [3600, 'h'], [60, 'min'], [1, 's']])
    if (Math.abs(seconds) >= 2 * size || size === 1) {
      const words = `${Math.floor(Math.abs(seconds) / size)} ${unit}`;
      return seconds > 0 ? `in ${words}` : seconds > -60 ? 'now' : `${words} late`;
    }
}

function countDown() {
  const now = Date.now() / 1000 + late;
  for (const time of document.querySelectorAll('time[data-at]'))
    time.textContent = far(Math.ceil(Number(time.dataset.at) - now));
}
countDown();
setInterval(countDown, 1000);

// The list of jobs: what is typed filters the rows that are here at once, and then the
// server says which there are.
const search = find('#search');
if (search) {
  let waiting, asked = 0;
  const load = async url => {
    const mine = ++asked;
    const page = await fetchPage(url).catch(() => null);
    if (!page || mine !== asked) return; // older than a later question
    history.replaceState(null, '', url);
    replacePart('#list', page);
    for (const name of ['state', 'sort', 'order'])
      search.form.elements[name].value = search.form.elements[name].defaultValue =
        find(`input[name=${name}]`, page).value;
  };
  const asForm = () => {
    const fields = [...new FormData(search.form)].filter(([, value]) => value);
    const query = new URLSearchParams(fields).toString();
    return search.form.getAttribute('action') + (query && '?' + query);
  };
  search.addEventListener('input', () => {
    const text = search.value.toLowerCase();
    for (const row of document.querySelectorAll('#jobs tbody tr'))
      row.hidden = !(row.textContent + find('code', row).title).toLowerCase().includes(text);
    clearTimeout(waiting);
    waiting = setTimeout(() => load(asForm()), 250);
  });
  document.addEventListener('click', event => {
    const link = event.target.closest('#list .filters a, #jobs thead a, #list .pager a');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    load(link.href);
  });
  setInterval(() => {
    const busy = document.hidden || find('#jobs tbody :focus') || find('#jobs tbody :active')
      || String(getSelection());
    if (!busy && search.value === search.defaultValue) load(location.href);
  }, 10000);
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
        return replacePart('#main', await fetchPage(location.href));
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
    clearTimeout(waiting);
    waiting = setTimeout(preview, 300);
  });
}
