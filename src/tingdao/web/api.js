/** The service, as the page sees it. Paths are relative, so that it works below a prefix too. */

/** What the service, or the way to it, said is wrong. `key` names a text of the page; without one, `message` is
 * in the words of the service. */
export class ServiceError extends Error {
  constructor(message, key = null, params = {}) {
    super(message);
    this.key = key;
    this.params = params;
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

/** Codes of the languages that the default model knows, or none when that is not known (yet). */
export async function languages() {
  try {
    const { data } = await (await fetch("v1/models", { cache: "no-store" })).json();
    return (data.find((model) => model.default) ?? data[0])?.languages ?? [];
  } catch {
    return [];
  }
}

/** Upload a file and wait for its transcript: {text, language, duration, segments: [{start, end, text}]}.
 *
 * onUpload gets the share that has been sent, 0 to 1. Rejects with ServiceError, or with the reason of `signal`
 * when that ends it; the service stops its work then.
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
      else if (body?.error?.message) reject(new ServiceError(body.error.message));
      else reject(new ServiceError("strange answer", "strange", { status: request.status }));
    };
    request.upload.onprogress = (event) => onUpload(event.total ? event.loaded / event.total : 1);
    request.upload.onload = () => onUpload(1);
    request.open("POST", "v1/audio/transcriptions");
    request.responseType = "json";
    request.send(form);
  });
}
