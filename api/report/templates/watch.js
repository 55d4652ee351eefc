"use strict";
// Asks the server of this page what is new, and passes requests on. Sections are HTML that the server has escaped.
(() => {
  const byId = (id) => document.getElementById(id);
  const every_ms = 2000, hidden_ms = 20000;
  let version = "", timer = 0, token = sessionStorage.getItem("token") || "";
  let status = "", isRunning = false;

  function takeToken() {
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given === null) return;
    token = given;
    sessionStorage.setItem("token", token);
    history.replaceState(null, "", location.pathname);
  }

  function replace(name, html) {
    const section = byId(name), folds = new Map([...section.querySelectorAll("details")].map((item) => [item.id, item.open]));
    const scrolled = new Map([...section.querySelectorAll(".scroll")].map((item) => [item.getAttribute("aria-labelledby"), [item.scrollLeft, item.scrollTop]]));
    const focused = document.activeElement?.closest?.(".scroll")?.getAttribute("aria-labelledby");
    section.innerHTML = html;
    for (const item of section.querySelectorAll("details")) item.open = folds.get(item.id) ?? item.open;
    for (const item of section.querySelectorAll(".scroll")) {
      const [left, top] = scrolled.get(item.getAttribute("aria-labelledby")) || [0, 0];
      item.scrollLeft = left;
      item.scrollTop = top;
      if (focused !== undefined && item.getAttribute("aria-labelledby") === focused) item.focus({ preventScroll: true });
    }
  }

  function say(id, text) {
    if (byId(id).textContent !== text) byId(id).textContent = text;
  }

  function showContent(content) {
    document.title = `${content.title} - trackside`;
    say("title", content.title);
    if (content.nothing !== undefined) {
      status = content.nothing;
      return;
    }
    status = content.status;
    isRunning = content.is_running;
    for (const [name, html] of Object.entries(content.sections)) replace(name, html);
    trackside.show(content.data);
  }

  function showRequests(state) {
    const waits = state.waiting.length > 0 ? ` Waiting for the run to take: ${state.waiting.join(", ")}.` : "";
    const how = "This run goes on, but takes no requests: start it with trackside train --watch, or attach the callback control_files.";
    const listens = "The run takes requests after each step. Stop saves first, unless its save_strategy is no.";
    say("listening", state.listening ? listens + waits : isRunning ? how : `No run goes on in this folder. ${status}`);
    byId("listening").classList.toggle("note", !state.listening);
    for (const button of document.querySelectorAll("button[data-action]")) button.disabled = !state.listening;
  }

  function signIn(isNeeded, text) {
    byId("sign-in").hidden = !isNeeded;
    say("live", text);
  }

  async function poll() {
    clearTimeout(timer);
    try {
      const answer = await fetch(`/state?version=${version}`, { headers: { Authorization: `Bearer ${token}` } });
      if (answer.status === 403) {
        signIn(true, "This page needs the token of the run.");
        say("listening", (await answer.json()).text);
        return;
      }
      const state = await answer.json();
      version = state.version;
      if (state.content !== undefined) showContent(state.content);
      showRequests(state);
      signIn(false, isRunning ? `Live, as of ${new Date().toLocaleTimeString()}.` : `As of ${new Date().toLocaleTimeString()}; looking for more.`);
    } catch (error) {
      signIn(false, "The server of this page does not answer. Is trackside watch still running?");
      for (const button of document.querySelectorAll("button[data-action]")) button.disabled = true;
    }
    timer = setTimeout(poll, document.hidden ? hidden_ms : every_ms);
  }

  async function ask(action) {
    if (action === "stop" && !confirm("Stop the run after its next step?")) return;
    say("answer", "");
    try {
      const answer = await fetch("/request", {
        method: "POST",
        headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
        body: JSON.stringify({ action }),
      });
      say("answer", (await answer.json()).text);
    } catch (error) {
      say("answer", "The server of this page does not answer.");
    }
    poll();
  }

  for (const button of document.querySelectorAll("button[data-action]")) button.addEventListener("click", () => ask(button.dataset.action));
  byId("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    token = byId("token").value.trim();
    sessionStorage.setItem("token", token);
    poll();
  });
  document.addEventListener("visibilitychange", () => document.hidden || poll());
  takeToken();
  poll();
})();
