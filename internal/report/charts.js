"use strict";

/* Draws the charts of a load test with uPlot. shown has the report; a time is in seconds, and a latency
   in milliseconds. */
const {report, statuses, end} = shown;
const steps = report.timeline || [], faults = report.faults || [], endpoints = report.endpoints || [], buckets = report.distribution || [];
const middles = steps.map((s) => s.at + report.step / 2);
const left = Math.max(70, ...endpoints.map((e) => 7 * e.address.length + 16)), right = 60;
let drawn = [];

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const count = (n) => Math.round(n).toLocaleString("en-US");
function millis(ms) {
  if (ms < 0.9995) return Math.round(ms * 1000) + " µs";
  return ms < 999.5 ? Number(ms.toPrecision(3)) + " ms" : Number((ms / 1000).toPrecision(3)) + " s";
}
const seconds = (t) => Number(t.toFixed(2)) + " s";
const labels = (format) => (u, ticks) => ticks.map((t) => t === null ? "" : format(t));

const wholeLabels = labels((n) => Number.isInteger(n) ? count(n) : "");

/* The part of a chart that all have in common: one time axis, faults in the background. */
function chart(id, height, values, series, y, options) {
  const element = document.getElementById(id);
  if (!element) return;
  const axis = {stroke: color("soft"), grid: {stroke: color("faint"), width: 1}, ticks: {show: false}, font: "12px system-ui, sans-serif"};
  const {hooks, x, xFormat, rightAxis, legend} = options || {};
  drawn.push(new uPlot({
    width: element.clientWidth, height, series, legend, hooks,
    padding: [10, rightAxis ? 0 : right, 0, 0],
    cursor: {y: false, drag: {x: false}, sync: x ? undefined : {key: "time"}},
    scales: {x: {time: false, range: [0, end], ...x}, y: y.scale},
    axes: [{...axis, size: 30, values: labels(xFormat || seconds)}, {...axis, ...y.axis, size: left}]
      .concat(rightAxis ? [{...axis, ...rightAxis, side: 1, size: right, grid: {show: false}}] : []),
  }, values, element));
}

function shadeFaults(u) {
  u.ctx.fillStyle = color("fault");
  u.ctx.globalAlpha = 0.1;
  for (const f of faults) {
    const from = u.valToPos(f.from, "x", true);
    u.ctx.fillRect(from, u.bbox.top, Math.max(u.valToPos(f.until || end, "x", true) - from, 2), u.bbox.height);
  }
  u.ctx.globalAlpha = 1;
}

/* The notifications offered and, stacked by status, those answered. */
function drawRate() {
  const below = steps.map(() => 0), at = (s, i) => (s.verdicts?.[i.name] || 0) / report.step;
  const stacks = statuses.map((status) => steps.map((s, i) => below[i] += at(s, status))).reverse();
  const names = statuses.toReversed();
  const offered = steps.map((s) => s.at >= report.seconds ? null : s.offered / Math.max(Math.min(report.step, report.seconds - s.at), report.step / 10));
  const perSecond = (n) => n == null ? "–" : count(n) + "/s";
  chart("rate", 230, [middles, ...stacks, offered], [
    {label: "time", value: (u, t) => t == null ? "–" : seconds(t)},
    ...names.map((status) => ({
      label: status.name, fill: color(status.class), width: 0, points: {show: false},
      value: (u, v, s, i) => i == null ? "–" : perSecond(at(steps[i], status)),
    })),
    {label: "offered", stroke: color("ink"), width: 1.4, dash: [5, 4], points: {show: false}, value: (u, v) => perSecond(v)},
  ], {scale: {range: (u, min, max) => [0, Math.max(max * 1.08, 1)]}, axis: {values: wholeLabels}}, {hooks: {drawClear: [shadeFaults]}});
}

const percentiles = [["p99.9", "p99_9", "p4"], ["p99", "p99", "p3"], ["p90", "p90", "p2"], ["p50", "p50", "p1"]];

/* Latency percentiles by due time. */
function drawLatency() {
  chart("latency", 270, [middles, ...percentiles.map(([, field]) => steps.map((s) => s.latency[field] || null))], [
    {label: "time", value: (u, t) => t == null ? "–" : seconds(t)},
    ...percentiles.map(([label, , name]) => ({label, stroke: color(name), width: 1.8, points: {show: steps.length < 3}, value: (u, v) => v == null ? "–" : millis(v)})),
  ], {scale: {distr: 3}, axis: {values: labels(millis)}}, {hooks: {drawClear: [shadeFaults]}});
}

/* A chart with a row for each name. paint gets a function that fills a part of a row. */
function drawRows(id, names, paint, options) {
  if (!names.length) return;
  const splits = () => names.map((_, i) => names.length - i - 0.5);
  const draw = (u) => paint((i, from, until, fill, alpha, text) => {
    const x = u.valToPos(from, "x", true), y = u.valToPos(names.length - i, "y", true), row = u.valToPos(names.length - i - 1, "y", true) - y;
    u.ctx.globalAlpha = alpha;
    u.ctx.fillStyle = fill;
    u.ctx.fillRect(x, y, Math.max(u.valToPos(until, "x", true) - x, 2), row * 0.85);
    u.ctx.globalAlpha = 1;
    if (text) {
      const late = from > end * 0.6, gap = 8 * devicePixelRatio;
      u.ctx.fillStyle = color("ink");
      u.ctx.textAlign = late ? "right" : "left";
      u.ctx.textBaseline = "middle";
      u.ctx.font = 12 * devicePixelRatio + "px system-ui, sans-serif";
      u.ctx.fillText(text, late ? x - gap : x + gap, y + row * 0.43);
    }
  });
  const axis = {splits, values: () => names, grid: {show: false}};
  chart(id, 20 * names.length + 40, [middles, middles.map(() => null)], [{}, {}], {scale: {range: [0, names.length]}, axis},
    {legend: {show: false}, ...options, hooks: {draw: [draw], ...options?.hooks}, rightAxis: options?.right && {...axis, values: () => options.right}});
}

/* Attempts on each endpoint; darker means more. */
function drawEndpoints() {
  const most = Math.max(1, ...steps.flatMap((s) => Object.values(s.endpoints || {}))), attempts = endpoints.reduce((sum, e) => sum + e.attempts, 0);
  const caption = document.getElementById("endpoint");
  drawRows("endpoints", endpoints.map((e) => e.address), (fill) => endpoints.forEach(({address}, i) => {
    for (const s of steps) {
      const share = (s.endpoints?.[address] || 0) / most, unhealthy = s.unhealthy?.[address];
      fill(i, s.at, s.at + report.step, color(unhealthy ? "v4" : share ? "v1" : "faint"), unhealthy ? 0.75 : share ? 0.12 + 0.88 * share : 0.6);
    }
  }), {
    right: endpoints.map((e) => (100 * e.attempts / Math.max(attempts, 1)).toFixed(1) + " %"),
    hooks: {
      drawClear: [shadeFaults],
      setCursor: [(u) => {
        const step = steps[u.cursor.idx], e = endpoints[endpoints.length - 1 - Math.floor(u.posToVal(u.cursor.top, "y"))];
        caption.textContent = step && e ? `${e.address} at ${seconds(step.at)}: ${count(step.endpoints?.[e.address] || 0)} attempts ${step.unhealthy?.[e.address] || ""}` : "\u00a0";
      }],
    },
  });
}

/* The latency histogram, with the percentiles of the run. */
function drawDistribution() {
  if (!buckets.length) return;
  const ratio = Math.pow(10, 1 / 20), first = buckets[0].up_to / ratio, last = Math.max(buckets[buckets.length - 1].up_to, 10 * first);
  const marks = (u) => {
    u.ctx.strokeStyle = u.ctx.fillStyle = color("ink");
    u.ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    u.ctx.textAlign = "center";
    u.ctx.textBaseline = "top";
    u.ctx.font = 12 * devicePixelRatio + "px system-ui, sans-serif";
    let previous = -1e9;
    for (const [name, field] of percentiles.toReversed()) {
      const x = u.valToPos(Math.max(report.latency[field], first), "x", true);
      u.ctx.beginPath();
      u.ctx.moveTo(x, u.bbox.top + 16 * devicePixelRatio);
      u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
      u.ctx.stroke();
      if (x - previous > 34 * devicePixelRatio) {
        u.ctx.fillText(name, x, u.bbox.top);
        previous = x;
      }
    }
    u.ctx.setLineDash([]);
  };
  chart("distribution", 250, [buckets.map((b) => b.up_to / Math.sqrt(ratio)), buckets.map((b) => b.count)], [
    {label: "latency", value: (u, v, s, i) => i == null ? "–" : "up to " + millis(buckets[i].up_to)},
    {label: "notifications", fill: color("v1"), paths: uPlot.paths.bars({size: [0.92, 40]}), points: {show: false}, value: (u, v) => v == null ? "–" : count(v)},
  ], {scale: {range: (u, min, max) => [0, max * 1.2]}, axis: {values: wholeLabels}},
    {x: {distr: 3, range: [first, last]}, xFormat: millis, hooks: {draw: [marks]}});
}

function draw() {
  drawn.forEach((u) => u.destroy());
  drawn = [];
  drawRows("faults", faults.map((_, i) => String(i + 1)), (fill) => faults.forEach((f, i) => fill(i, f.from, f.until || end, color("fault"), 0.22, f.description)));
  drawRate();
  drawLatency();
  drawEndpoints();
  drawDistribution();
}
draw();
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
