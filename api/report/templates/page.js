"use strict";
// The curves of a page. Texts are only ever set as text, and what plotly reads as markup is escaped first.
(() => {
  const byId = (id) => document.getElementById(id);
  let data = JSON.parse(byId("data").textContent);
  const figures = new Map();
  const narrow = matchMedia("(max-width: 40rem)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const axisTitles = { step: "step", epoch: "epoch", hours: "hours of training" };
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  async function loadPlotly() {
    const packed = Uint8Array.from(atob(byId("plotly").textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    byId("plotly").remove();
  }

  // exponential moving average, without the pull of its first value
  function smoothed(values, weight) {
    let sum = 0, norm = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = weight * sum + (1 - weight) * value;
      norm = weight * norm + (1 - weight);
      return sum / norm;
    });
  }

  function traces(figure) {
    const axis = byId("axis").value;
    const weight = Number(byId("smoothing").value);
    const names = [...new Set(figure.curves.map((curve) => curve.name))];
    const several = data.runs.length > 1;
    return figure.curves.flatMap((curve) => {
      const number = names.indexOf(curve.name);
      const line = { color: colour(`--run-${(several ? curve.run : number) % 8}`), width: 2, dash: several ? dashes[number % dashes.length] : "solid" };
      const run = data.runs[curve.run].name;
      const label = !several ? curve.name : names.length > 1 ? `${run}: ${curve.name}` : run;
      const few = curve.value.length <= 60;
      const base = { x: curve[axis], type: "scatter", name: plain(label), line, marker: { size: few ? 5 : 4 }, mode: few ? "lines+markers" : "lines", hovertemplate: "%{y:.5g}<extra>" + plain(label) + "</extra>" };
      const isSmoothed = weight > 0 && !few;
      const drawn = { ...base, y: isSmoothed ? smoothed(curve.value, weight) : curve.value };
      const faint = { ...base, y: curve.value, opacity: 0.25, showlegend: false, hoverinfo: "skip", hovertemplate: null, line: { ...line, width: 1 } };
      return isSmoothed ? [faint, drawn] : [drawn];
    });
  }

  function layout(figure) {
    const ink = colour("--ink"), line = colour("--line"), axis = byId("axis").value;
    const values = figure.curves.flatMap((curve) => curve.value).filter((value) => value !== null);
    const isLog = byId("log").checked && values.length > 0 && values.every((value) => value > 0);
    const common = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, fixedrange: touch.matches };
    const several = data.runs.length > 1;
    const resumed = axis !== "step" ? [] : data.runs.flatMap((run, number) => run.resumed.map((step) => ({ step, colour: colour(several ? `--run-${number % 8}` : "--quiet") })));
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12, family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif" },
      margin: { l: 50, r: 12, t: 12, b: 40 }, hovermode: "x unified",
      hoverlabel: { bgcolor: colour("--card"), bordercolor: line, font: { color: ink } },
      legend: { orientation: "h", y: -0.22, yanchor: "top", x: 0 }, showlegend: figure.curves.length > 1,
      dragmode: touch.matches ? false : "zoom",
      xaxis: { ...common, title: { text: axisTitles[axis], standoff: 6 } },
      yaxis: { ...common, type: isLog ? "log" : "linear", title: { text: plain(figure.unit) } },
      shapes: resumed.map((mark) => ({ type: "line", x0: mark.step, x1: mark.step, yref: "paper", y0: 0, y1: 1, line: { color: mark.colour, width: 1, dash: "dot" } })),
      annotations: resumed.slice(0, 8).map((mark) => ({ x: mark.step, yref: "paper", y: 1, xanchor: "left", yanchor: "top", showarrow: false, text: "resumed", font: { color: mark.colour, size: 11 } })),
      uirevision: `${axis}-${isLog}`,
    };
  }

  const config = { responsive: true, displaylogo: false, doubleClick: "reset", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], toImageButtonOptions: { filename: "curve" } };

  function element(figure) {
    let parts = figures.get(figure.key);
    if (parts === undefined) {
      const box = document.createElement("figure"), title = document.createElement("h3");
      const plot = document.createElement("div"), caption = document.createElement("figcaption");
      const note = document.createElement("p"), fold = document.createElement("details"), words = document.createElement("ul");
      fold.append(Object.assign(document.createElement("summary"), { textContent: "In numbers" }), words);
      caption.append(note, fold);
      plot.className = "plot";
      plot.setAttribute("role", "img");
      box.append(title, plot, caption);
      parts = { box, title, plot, note, words };
      figures.set(figure.key, parts);
    }
    parts.title.textContent = figure.title;
    parts.note.textContent = figure.note;
    parts.words.replaceChildren(...figure.words.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
    parts.plot.setAttribute("aria-label", `Curves of ${figure.title}. ${figure.words.join(" ")}`);
    return parts;
  }

  async function draw() {
    const parts = data.figures.map(element);
    const boxes = parts.map((part) => part.box);
    if (boxes.some((box, index) => byId("figures").children[index] !== box) || byId("figures").children.length !== boxes.length) {
      byId("figures").replaceChildren(...boxes);
    }
    const choices = [byId("axis").value, byId("smoothing").value, byId("log").checked, dark.matches, narrow.matches, touch.matches];
    for (const [index, figure] of data.figures.entries()) {
      const shown = JSON.stringify([choices, figure, data.runs]);
      if (parts[index].shown === shown) continue; // a page that is live asks again and again
      parts[index].shown = shown;
      const rows = Math.ceil(figure.curves.length / (narrow.matches ? 1 : 3));
      parts[index].plot.style.height = `${(narrow.matches ? 250 : 300) + 20 * Math.max(0, rows - 2)}px`;
      await Plotly.react(parts[index].plot, traces(figure), layout(figure), { ...config, displayModeBar: touch.matches ? false : "hover" });
    }
    const left = data.left_out > 0 ? ` Metrics without a figure, since a page has 40 at most: ${data.left_out}.` : "";
    byId("plot-note").textContent = data.figures.length === 0 ? "Nothing was logged yet." : left.trim();
    document.documentElement.dataset.drawn = String(data.figures.length);
  }

  const redraw = () => draw().catch((error) => { byId("plot-note").textContent = `The curves cannot be drawn: ${error.message}`; });

  function show(given) {
    data = given;
    return globalThis.Plotly === undefined ? undefined : redraw();
  }

  byId("choices").addEventListener("input", redraw);
  byId("choices").addEventListener("submit", (event) => event.preventDefault());
  for (const query of [dark, narrow]) query.addEventListener("change", redraw);
  const epochs = data.figures.some((figure) => figure.curves.some((curve) => curve.hours.some((hours) => hours !== null)));
  if (!epochs && data.figures.length > 0) byId("axis").querySelector("[value=hours]").disabled = true;
  loadPlotly().then(redraw, (error) => { byId("plot-note").textContent = `This browser cannot unpack the plotting library: ${error.message}`; });
  globalThis.trackside = { show };
})();
