// What every page needs that fetches again when it is told of a change.

// One fetch at a time, or an older answer could come last and stay. A notification that comes meanwhile asks for one
// more fetch afterwards, however many there were.
export function oneAtATime(fetchAndShow) {
  let running = false;
  let again = false;
  return async () => {
    again = true;
    if (running) return;
    running = true;
    try {
      while (again) {
        again = false;
        await fetchAndShow();
      }
    } finally {
      running = false;
    }
  };
}

export async function fetchJson(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return answer.json();
}

// Once refused, pusher-js waits 15 seconds before it tries again, then 30, then 60. A page that somebody looks at
// should not wait that long.
export function reconnectSoon(pusher) {
  setInterval(() => {
    if (pusher.connection.state === "connected") return;
    pusher.disconnect();
    pusher.connect();
  }, 3000);
}

// Inserts, changes and removes the elements of a list by the id of their rows. What stays is neither moved nor made
// again, so scrolling, typed text and focus stay too.
export function showRows(list, template, rows) {
  const ids = new Set(rows.map((row) => String(row.id)));
  for (const element of [...list.children]) if (!ids.has(element.dataset.id)) element.remove();
  const shown = new Map([...list.children].map((element) => [element.dataset.id, element]));
  rows.forEach((row, at) => {
    const element = shown.get(String(row.id)) ?? template.content.firstElementChild.cloneNode(true);
    element.dataset.id = row.id;
    for (const cell of element.querySelectorAll("[data-column]")) {
      const text = String(row[cell.dataset.column] ?? "");
      if (cell.textContent !== text) cell.textContent = text;
    }
    if (list.children[at] !== element) list.insertBefore(element, list.children[at] ?? null);
  });
}
