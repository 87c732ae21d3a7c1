// Calls to the service. The key lives in this module's memory alone: a reload forgets it.

let key = null;
export const session = { name: null, scopes: [], keys_needed: false };

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const call = async (method, path, options) => (await tagged(method, path, options)).answer;

// An answer with its version, for the `match` of a change that is only for that version; with
// `absent` it is only for a name that is free.
export async function tagged(method, path, { body, signal, match, absent } = {}) {
  const headers = {};
  if (key !== null) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  if (match !== undefined) headers["if-match"] = match;
  if (absent) headers["if-none-match"] = "*";
  const response = await fetch(path, {
    method, headers, signal, cache: "no-store", credentials: "omit",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const answer = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Refused(response.status, answer.detail ?? answer.title ?? "refused");
  return { answer, tag: response.headers.get("etag") ?? undefined };
}

export const get = (path, signal) => call("GET", path, { signal });

// Ask who we are, with a new key where one is given; the old one stays where it is refused.
export async function identify(candidate) {
  const before = key;
  if (candidate !== undefined) key = candidate;
  try {
    Object.assign(session, await get("dashboard/session"));
  } catch (error) {
    key = before;
    throw error;
  }
}

export const may = (scope) => session.scopes.includes(scope);
