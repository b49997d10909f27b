// Answers to requests: from the data inside the page, or from the server.

const inside = JSON.parse(document.getElementById("data").textContent);
export const isLive = inside === null;
const EVERY = 2000; // milliseconds between two looks at the store's state
const kept = new Map(); // request -> promise of its answer, for one state of the store

export function ask(request) {
  if (!isLive) return Promise.resolve(inside[request] ?? null);
  if (!kept.has(request)) {
    const asked = fetched(request);
    asked.catch(() => kept.delete(request));
    kept.set(request, asked);
  }
  return kept.get(request);
}

async function fetched(request) {
  const path = request.split("/").map(encodeURIComponent).join("/");
  const response = await fetch(`api/${path}`, { headers: { Accept: "application/json" } });
  if (response.status === 404) return null;
  if (!response.ok) throw new Error((await response.text()) || `the server answered ${response.status}`);
  return response.json();
}

// Calls `changed` after the store has got new rows, and `said` with what to tell the reader.
export function watch(changed, said) {
  if (!isLive) return;
  let state = null;
  async function look() {
    try {
      const now = (await (await fetch("api/state")).json()).state;
      if (state !== null && now !== state) {
        kept.clear();
        await changed();
      }
      state = now;
      said("live", `Live, ${new Date().toLocaleTimeString("en-GB")}`);
    } catch {
      said("stale", "Not connected: the numbers may be old");
    }
    setTimeout(look, EVERY);
  }
  look();
}
