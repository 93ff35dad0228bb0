// SPDX-License-Identifier: Apache-2.0
// What the console does in the browser beyond htmx: the theme, filters, and the live page.
"use strict";

const root = document.documentElement;
const byID = (id) => document.getElementById(id);

/* The theme is that of the system until the button is used. */
function isDark() {
  const chosen = root.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
byID("theme")?.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  document.cookie = `sluice_theme=${root.dataset.theme}; path=/console/; max-age=31536000; samesite=strict`;
  dispatchEvent(new Event("themechange"));
});

/* A part that is replaced keeps the focus and the scroll position of what stays. */
htmx.defineExtension("morph", {
  isInlineSwap: () => false,
  handleSwap: (style, target, fragment) => {
    if (style !== "morph:innerHTML") return false;
    Idiomorph.morph(target, fragment.childNodes, {morphStyle: "innerHTML"});
    return [target];
  },
});

/* On a narrow screen, the link to the current page can be out of view. */
document.querySelector(".bar nav [aria-current]")?.scrollIntoView({inline: "center", block: "nearest"});

/* Filters apply at once. Another app or platform changes what the form of a test offers. */
document.addEventListener("change", (e) => {
  e.target.closest("[data-submit-on-change]")?.requestSubmit();
  if (e.target.matches("[data-reload]")) {
    const form = e.target.form, query = new URLSearchParams({app: form.app.value, platform: form.platform.value});
    location.assign("/console/send?" + query);
  }
});

/* An upload shows how much has been sent. */
document.addEventListener("htmx:xhr:progress", (e) => {
  const bar = e.target.querySelector?.("progress");
  if (!bar || !e.detail.lengthComputable) return;
  bar.hidden = false;
  bar.max = e.detail.total;
  bar.value = e.detail.loaded;
});

/* The live page, and that of a broadcast. */
const live = byID("live");
if (live) startLive();

function startLive() {
  const plots = startPlots();
  let source, paused = false, leaving = false, lastEvent = newestEvent(), lastState = live.querySelector("#state")?.dataset.state;
  const show = (state, text) => {
    byID("connection").dataset.state = state;
    byID("connection-text").textContent = text;
  };
  function connect() {
    source = new EventSource(live.dataset.events);
    source.addEventListener("open", () => show("live", "live"));
    source.addEventListener("view", (e) => {
      Idiomorph.morph(live, e.data, {morphStyle: "innerHTML", callbacks: {beforeNodeMorphed: (old) => old.id !== "plots"}});
      announce();
    });
    source.addEventListener("point", (e) => plots.add(JSON.parse(e.data)));
    source.addEventListener("error", () => {
      if (leaving) return;
      show("lost", "no connection, trying again");
      if (source.readyState === EventSource.CLOSED) { // refused: signed out, or too many pages
        fetch(live.dataset.events, {method: "HEAD", headers: {Accept: "text/event-stream"}}).then((r) => {
          if (r.status === 401) location.assign("/console/sign-in");
          else setTimeout(connect, 10000);
        }, () => setTimeout(connect, 5000));
      }
    });
  }
  /* A screen reader hears about ejected endpoints and not about every figure. */
  function newestEvent() { return live.querySelector(".events time")?.dateTime || ""; }
  function announce() {
    const fresh = [...live.querySelectorAll(".events li.ejected, .events li.recovered, .events li.unreachable")].filter((li) => li.querySelector("time").dateTime > lastEvent);
    lastEvent = newestEvent() || lastEvent;
    const state = live.querySelector("#state")?.dataset.state;
    if (state && state !== lastState) byID("announce").textContent = lastState = state;
    if (fresh.length) byID("announce").textContent = fresh.map((li) => `${li.querySelector("b").textContent} ${li.querySelector("code")?.textContent || ""}`).join(", ");
  }
  byID("pause")?.addEventListener("click", (e) => {
    paused = !paused;
    e.target.setAttribute("aria-pressed", paused);
    e.target.textContent = paused ? "Continue" : "Pause";
    if (paused) {
      source.close();
      show("paused", "paused");
    } else {
      connect();
    }
  });
  connect();
  for (const event of ["beforeunload", "pagehide"]) addEventListener(event, () => { leaving = true; });
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (e) => { // from the cache of the browser
    leaving = false;
    if (e.persisted && !paused) connect();
  });
}

/* Two plots of the last ten minutes. The points stay in this tab when the page is left. */
function startPlots() {
  const seconds = 600, key = "points " + live.dataset.events;
  let points = JSON.parse(sessionStorage.getItem(key) || "[]").filter((p) => p.at > Date.now() / 1000 - seconds);
  let plots = [];
  const color = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const number = (n) => n >= 100 ? Math.round(n).toLocaleString("en") : n.toLocaleString("en", {maximumFractionDigits: n < 10 ? 2 : 1});
  const millis = (ms) => ms >= 10000 ? number(ms / 1000) + " s" : number(ms) + " ms";
  const result = [["accepted", "accepted", "good"], ["retryable", "throttled or unavailable", "warn"], ["refused", "refused", "bad"], ["unknown", "unknown", "unsure"]];
  const duration = [["p50", "p50", "good"], ["p99", "p99", "warn"]];

  function data(series) {
    const times = [], values = series.map(() => []);
    points.forEach((p, i) => {
      if (i && p.at - points[i - 1].at > 5) { // a gap
        times.push(p.at - 1);
        values.forEach((v) => v.push(null));
      }
      times.push(p.at);
      series.forEach(([field], s) => values[s].push(field[0] === "p" && !p[field] ? null : p[field]));
    });
    return [times, ...values];
  }
  function draw(id, series, format, range) {
    const element = byID(id), axis = {stroke: color("soft"), grid: {stroke: color("track"), width: 1}, ticks: {show: false}, font: "12px system-ui, sans-serif"};
    return new uPlot({
      width: element.clientWidth, height: 165, padding: [8, 26, 0, 0], cursor: {y: false, drag: {x: false, y: false}, sync: {key: "live"}},
      scales: {x: {time: true, range: () => {
        const now = Date.now() / 1000, first = points.length ? points[0].at : now;
        return [Math.max(Math.min(first, now - 60), now - seconds), now];
      }}, y: {range}},
      axes: [{...axis, size: 26, space: 80, values: (u, ticks, _, __, step) => ticks.map((t) => new Date(t * 1000).toISOString().slice(11, step < 60 ? 19 : 16))}, {...axis, size: 62, values: (u, ticks) => ticks.map((t) => t == null ? "" : format(t))}],
      series: [{label: "time", value: (u, t) => t == null ? "–" : new Date(t * 1000).toISOString().slice(11, 19)},
        ...series.map(([, label, name]) => ({label, stroke: color(name), width: 1.6, points: {show: false}, value: (u, v) => v == null ? "–" : format(v)}))],
    }, data(series), element);
  }
  /* Without the pointer, the legend has the newest values. */
  const showNewest = () => setTimeout(() => plots.forEach(([u]) => u.cursor.left < 0 && u.setLegend({idx: u.data[0].length - 1}, false))); // after uPlot has drawn
  function redraw() {
    plots.forEach(([u]) => u.destroy());
    const top = (least) => (u, min, max) => [0, Math.max((max || 0) * 1.15, least)];
    plots = [["plot-rate", result, number], ["plot-latency", duration, millis]].filter(([id]) => byID(id))
      .map(([id, series, format]) => [draw(id, series, format, top(1)), series]);
    showNewest();
  }
  redraw();
  addEventListener("resize", redraw);
  addEventListener("themechange", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  return {
    add(p) {
      if (points.length && p.at <= points[points.length - 1].at) return;
      points.push(p);
      points = points.filter((q) => q.at > p.at - seconds);
      sessionStorage.setItem(key, JSON.stringify(points));
      plots.forEach(([u, series]) => u.setData(data(series)));
      showNewest();
    },
  };
}
