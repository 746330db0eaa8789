// Talks to the service. The API key lives in this module's memory, nowhere else: it is gone with the page.
let key = "";

export function useKey(value) {
  key = value;
}

export class ServiceError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function answerOf(url, options) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(url, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service does not answer. Is it running?");
  }
  if (!response.ok) {
    const isJson = /json/.test(response.headers.get("content-type") ?? "");
    const detail = isJson ? (await response.json()).detail : (await response.text()).slice(0, 300);
    throw new ServiceError(detail || `The service answered with status ${response.status}.`, response.status);
  }
  return response;
}

export const getJson = async (url, options = {}) => (await answerOf(url, options)).json();
export const getFile = async (url, options = {}) => (await answerOf(url, options)).blob();
