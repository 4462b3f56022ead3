"use strict";
// A client of the gateway like any other: it streams an answer with the user's own access token, then asks what it cost.
const page = document.getElementById("playground");
const talk = document.getElementById("talk");
const form = document.getElementById("ask");
const say = (name) => page.dataset[`say${name}`];
// The gateway answers in English: its codes have words of the page's language.
const refusals = JSON.parse(document.getElementById("refusals").textContent);
const why = (error) => refusals[error?.code] || error?.message || say("Failed");
// French sets a colon apart.
const colon = document.documentElement.lang === "fr" ? "\u00a0: " : ": ";
const messages = [];
let token = null;
let running = null;

async function accessToken() {
  if (token && token.until > Date.now() + 60000) return token.text;
  const body = new FormData(form);
  const response = await fetch(page.dataset.token, { method: "POST", body, headers: { Accept: "application/json" } });
  if (!response.ok || response.redirected) {
    window.location.reload();
    throw new Error("signed out");
  }
  const answer = await response.json();
  token = { text: answer.access_token, until: Date.now() + answer.expires_in * 1000 };
  return token.text;
}

async function gateway(path, options = {}) {
  const headers = { Authorization: `Bearer ${await accessToken()}`, "X-Account": page.dataset.account, ...(options.headers || {}) };
  return fetch(path, { ...options, headers, credentials: "omit" });
}

function bubble(text, mine) {
  document.getElementById("talk-empty")?.remove();
  const element = document.createElement("div");
  element.className = mine ? "bubble bubble-mine" : "bubble";
  element.dir = "auto";
  element.textContent = text;
  talk.append(element);
  element.scrollIntoView({ block: "nearest" });
  return element;
}

function fact(list, label, value) {
  const item = document.createElement("span");
  item.append(`${label}${colon}`);
  const shown = document.createElement("bdi");
  shown.textContent = value;
  item.append(shown);
  list.append(item);
  return item;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function price(requestId, list) {
  const address = page.dataset.price.replace("REQUEST", requestId);
  // The booking stands before the stream's last bytes; a second try is for a slow reader.
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const response = await fetch(address, { headers: { Accept: "application/json" } });
    if (response.ok) {
      const cost = await response.json();
      const one = new Intl.PluralRules(document.documentElement.lang).select(cost.quota_units) === "one";
      const paid = cost.quota_units ? `${cost.quota_units} ${say(one ? "Request" : "Requests")}` : `${cost.credits} ${say("Credits")}`;
      fact(list, say("Cost"), paid).dataset.figure = "cost";
      fact(list, say("Tokens"), `${cost.input_tokens} ${say("In")} + ${cost.output_tokens} ${say("Out")}`);
      if (cost.model) fact(list, document.querySelector("label[for=model]").textContent, cost.model);
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 400 * (attempt + 1)));
  }
  const why = document.createElement("a");
  why.href = page.dataset.request.replace("REQUEST", requestId);
  why.textContent = say("Why");
  const item = document.createElement("span");
  item.dataset.figure = "request";
  item.append(why);
  list.append(item);
}

async function ask(prompt) {
  messages.push({ role: "user", content: prompt });
  bubble(prompt, true);
  const answer = bubble(say("Waiting"), false);
  const list = document.createElement("div");
  list.className = "bubble-facts";
  const system = document.getElementById("system").value.trim();
  const body = {
    model: document.getElementById("model").value,
    max_tokens: Number(document.getElementById("most").value) || 512,
    stream: true,
    stream_options: { include_usage: true },
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
  };
  let text = "";
  let requestId = null;
  running = new AbortController();
  try {
    const response = await gateway("/v1/chat/completions", {
      method: "POST",
      body: JSON.stringify(body),
      headers: { "Content-Type": "application/json" },
      signal: running.signal,
    });
    requestId = response.headers.get("x-request-id");
    if (!response.ok) {
      const refused = await response.json().catch(() => ({}));
      throw new Error(why(refused.error));
    }
    answer.textContent = "";
    for await (const event of events(response)) {
      if (event.error) throw new Error(why(event.error));
      text += event.choices?.[0]?.delta?.content || "";
      answer.textContent = text;
      answer.scrollIntoView({ block: "nearest" });
    }
    messages.push({ role: "assistant", content: text });
  } catch (error) {
    const stopped = error.name === "AbortError";
    answer.textContent = text;
    const note = document.createElement("p");
    note.className = stopped ? "soft" : "notice notice-error";
    note.setAttribute("role", "alert");
    note.textContent = stopped ? say("Stopped") : error.message || say("Failed");
    answer.append(note);
    if (text) messages.push({ role: "assistant", content: text });
    else messages.pop();
  } finally {
    running = null;
  }
  answer.after(list);
  if (requestId && text) await price(requestId, list);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const prompt = document.getElementById("prompt");
  if (running || !prompt.value.trim()) return;
  const text = prompt.value.trim();
  prompt.value = "";
  document.getElementById("send").disabled = true;
  document.getElementById("stop").hidden = false;
  try {
    await ask(text);
  } finally {
    document.getElementById("send").disabled = false;
    document.getElementById("stop").hidden = true;
    prompt.focus();
  }
});
document.getElementById("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
document.getElementById("stop").addEventListener("click", () => running?.abort());
document.getElementById("forget").addEventListener("click", () => {
  messages.length = 0;
  talk.replaceChildren();
  document.getElementById("prompt").focus();
});

async function listModels() {
  const response = await gateway("/v1/models");
  if (!response.ok) return;
  const select = document.getElementById("model");
  const { data } = await response.json();
  for (const model of data) {
    if (model.id === "auto") continue;
    select.add(new Option(model.id, model.id));
  }
}
listModels();
