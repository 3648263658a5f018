// Requests to the server of this page. Relevance comes as base64 of little-endian float32.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer: is the command still running?", 0);
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Refused(said.error ?? `The server failed (${answer.status}); its terminal says why.`, answer.status);
}

const json = async (answer) => (await answer).json();

function post(path, token, body, signal) {
  const headers = { "Content-Type": "application/json", "X-Picture": token };
  return asked(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

const before = (token) => (token ? { "X-Before": token } : {});

export const about = () => json(asked("/api/about"));
export const takeScene = (number, token) =>
  json(asked(`/api/scenes/${number}`, { method: "POST", headers: before(token) }));
export const takeFile = (file, token) =>
  json(asked("/api/pictures", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream", ...before(token) } }));
export const mask = async (token, ask, signal) => (await post("/api/mask", token, ask, signal)).blob();
export const archive = async (token, ask) => (await post("/api/archive", token, ask)).blob();

export async function relevance(token, ask) {
  const found = await json(post("/api/relevance", token, ask));
  for (const [name, { shape, data }] of Object.entries(found.relevance)) {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    found.relevance[name] = { shape: shape.slice(1), values: new Float32Array(bytes.buffer) };
  }
  return found;
}
