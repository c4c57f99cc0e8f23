/** The service, as the page sees it. Paths are relative, so that it works below a prefix too. */

const REMEMBERED = "tingdao.key";
const UNAUTHORIZED = 401;
let key = remembered();

/** What the service, or the way to it, said is wrong. `key` names a text of the page; without one, `message` is
 * in the words of the service. */
export class ServiceError extends Error {
  constructor(message, key = null, params = {}) {
    super(message);
    this.key = key;
    this.params = params;
    this.locked = false;
  }
}

/** Show this key with every request from now on; the browser forgets it with the tab. */
export function useKey(text) {
  key = text;
  try {
    sessionStorage.setItem(REMEMBERED, key);
  } catch {
    // Storage is switched off: the key lasts as long as the page.
  }
}

/** {status, model, stand_in, notice}, or null when there is no answer. */
export async function health() {
  try {
    const response = await fetch("health", { cache: "no-store" });
    return await response.json();
  } catch {
    return null;
  }
}

/** Codes of the languages that the default model knows, or none when that is not known (yet).
 *
 * Rejects with ServiceError when the service asks for a key, or for another one.
 */
export async function languages() {
  let response;
  try {
    response = await fetch("v1/models", { cache: "no-store", headers: credentials() });
    if (response.ok) {
      const { data } = await response.json();
      return (data.find((model) => model.default) ?? data[0])?.languages ?? [];
    }
  } catch {
    return [];
  }
  if (response.status === UNAUTHORIZED) throw refusal();
  return [];
}

/** Upload a file and wait for its transcript: {text, language, duration, segments: [{start, end, text}]}.
 *
 * onUpload gets the share that has been sent, 0 to 1. Rejects with ServiceError (`locked` when it is for want of a
 * key), or with the reason of `signal` when that ends it; the service stops its work then.
 */
export function transcribe(file, language, { signal, onUpload }) {
  const form = new FormData();
  form.append("model", "default");
  form.append("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "segment");
  if (language) form.append("language", language);
  form.append("file", file);

  // Not fetch: it cannot tell how much of the upload is through.
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => request.abort());
    request.onabort = () => reject(signal.reason);
    request.onerror = () => reject(new ServiceError("no connection", "unreachable"));
    request.onload = () => {
      const body = request.response;
      if (request.status === 200 && body?.segments) resolve(body);
      else if (request.status === UNAUTHORIZED) reject(refusal());
      else if (body?.error?.message) reject(new ServiceError(body.error.message));
      else reject(new ServiceError("strange answer", "strange", { status: request.status }));
    };
    request.upload.onprogress = (event) => onUpload(event.total ? event.loaded / event.total : 1);
    request.upload.onload = () => onUpload(1);
    request.open("POST", "v1/audio/transcriptions");
    for (const [name, value] of Object.entries(credentials())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.send(form);
  });
}

function credentials() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function refusal() {
  const error = key ? new ServiceError("wrong key", "wrongKey") : new ServiceError("no key", "needKey");
  error.locked = true;
  return error;
}

function remembered() {
  try {
    return sessionStorage.getItem(REMEMBERED);
  } catch {
    return null;
  }
}
