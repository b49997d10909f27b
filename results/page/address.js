// The state of the page is in its address: #/VIEW/NAME?key=value. Back and links work.

export function read(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [view = "", ...names] = path.split("/").map(decoded);
  return { view, name: names.join("/"), query: new URLSearchParams(query) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a lone per cent sign
  }
}

export function link(view, name = "", query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  const path = name ? `${view}/${encodeURIComponent(name)}` : view;
  return `#/${path}${text ? `?${text}` : ""}`;
}

// The present address with some keys changed; an empty value removes its key.
export function changed(changes) {
  const { view, name, query } = read();
  return link(view, name, { ...Object.fromEntries(query), ...changes });
}

export function go(changes) {
  location.hash = changed(changes);
}
