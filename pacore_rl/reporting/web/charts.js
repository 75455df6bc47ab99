"use strict";
// One figure for each panel of the data: a plotly chart, a legend of buttons, and the numbers as a table.

const Charts = (() => {
  const SMOOTH_FROM = 20; // from this many points on, a running mean is drawn over the points
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"]; // lines that coincide, or a reader without colours
  const hidden = new Map(); // panel title -> set of metric keys that the reader switched off

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children); // texts become text nodes, never markup
    return made;
  };

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (index) => style(`--line-${index % 11}`);

  function format(value, panel) {
    if (value === null || value === undefined) return "–";
    if (panel.share) return `${(100 * value).toFixed(1)}%`;
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e7) return value.toLocaleString("en");
    if (size !== 0 && (size < 0.001 || size >= 1e7)) return value.toExponential(1);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
  }

  function runningMean(values, width) {
    return values.map((_, end) => {
      const near = values.slice(Math.max(0, end - width + 1), end + 1).filter((value) => value !== null);
      return near.length ? near.reduce((sum, value) => sum + value, 0) / near.length : null;
    });
  }

  const measured = (values) => values.filter((value) => value !== null);

  function lines(panel, data) {
    return Object.entries(panel.lines)
      .map(([key, label], index) => ({ key, label, index, values: data.series[key] }))
      .filter((line) => line.values && measured(line.values).length)
      .map((line) => ({
        ...line,
        values: panel.logarithmic ? line.values.map((value) => (value > 0 ? value : null)) : line.values,
      }))
      .filter((line) => !panel.stacked || line.values.some((value) => value > 0));
  }

  function traces(panel, data) {
    const off = hidden.get(panel.title) ?? new Set();
    const hover = panel.share ? "%{y:.1%}" : "%{y:.4~g}";
    return lines(panel, data).filter((line) => !off.has(line.key)).flatMap((line) => {
      const common = { x: data.steps, name: line.label, hovertemplate: `${hover}<extra>%{fullData.name}</extra>` };
      if (panel.stacked) {
        return [{ ...common, y: line.values, type: "bar", marker: { color: colour(line.index) } }];
      }
      const paint = { color: colour(line.index), width: 2, dash: DASHES[line.index % DASHES.length] };
      const few = measured(line.values).length < SMOOTH_FROM;
      const curve = { ...common, type: "scatter", connectgaps: true };
      if (few) return [{ ...curve, y: line.values, mode: "lines+markers", line: paint, marker: { size: 6 } }];
      const width = Math.max(3, Math.floor(line.values.length / 20));
      return [
        { ...curve, y: line.values, mode: "lines", line: { ...paint, width: 1, dash: "solid" }, opacity: 0.3, hoverinfo: "skip", hovertemplate: null },
        { ...curve, y: runningMean(line.values, width), mode: "lines", line: paint },
      ];
    });
  }

  function layout(panel, data) {
    const ink = style("--ink-soft");
    const axis = { gridcolor: style("--grid"), zeroline: false, linecolor: style("--grid"), tickfont: { color: ink, size: 11 }, fixedrange: false };
    const vertical = { ...axis, rangemode: panel.logarithmic ? "normal" : "tozero" };
    if (panel.share) {
      const highest = Math.max(...lines(panel, data).flatMap((line) => measured(line.values)));
      Object.assign(vertical, { tickformat: highest < 0.05 ? ".1%" : ".0%", range: [-0.02, 1.02].map((end) => end * Math.max(highest > 0.5 ? 1 : 1.1 * highest, 0.01)) });
    }
    if (panel.logarithmic) Object.assign(vertical, { type: "log", exponentformat: "power", nticks: 6 });
    return {
      height: 250,
      margin: { l: 46, r: 10, t: 8, b: 34 },
      showlegend: false,
      barmode: "stack",
      bargap: 0.12,
      hovermode: "x unified",
      hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--ink"), size: 12 } },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style("--sans"), color: ink },
      xaxis: { ...axis, showgrid: false, title: { text: "step", font: { size: 11, color: ink }, standoff: 4 }, nticks: 7 },
      yaxis: vertical,
    };
  }

  const OPTIONS = { responsive: true, displaylogo: false, displayModeBar: false, doubleClick: "reset", scrollZoom: false };

  function summary(panel, data) {
    const parts = lines(panel, data).map((line) => {
      const values = measured(line.values);
      return `${line.label} from ${format(values[0], panel)} to ${format(values[values.length - 1], panel)}`;
    });
    return `${panel.title}, ${panel.unit || "number"} by step: ${parts.join("; ")}.`;
  }

  function legend(panel, data, redraw) {
    return element("div", { class: "legend", role: "group", "aria-label": `Lines of ${panel.title}` },
      ...lines(panel, data).map((line) => {
        const values = measured(line.values);
        const swatch = element("span", { class: `swatch line-${line.index % 11}`, "aria-hidden": "true" });
        const shown = !(hidden.get(panel.title) ?? new Set()).has(line.key);
        const button = element("button", { type: "button", "aria-pressed": String(shown), title: line.key },
          swatch, `${line.label} `, element("b", {}, format(values[values.length - 1], panel)));
        button.addEventListener("click", () => {
          const off = hidden.get(panel.title) ?? new Set();
          if (!off.delete(line.key)) off.add(line.key);
          hidden.set(panel.title, off);
          button.setAttribute("aria-pressed", String(!off.has(line.key)));
          redraw();
        });
        return button;
      }));
  }

  function numbers(panel, data) {
    const drawn = lines(panel, data);
    const head = element("tr", {}, element("th", { scope: "col" }, "step"),
      ...drawn.map((line) => element("th", { scope: "col" }, line.label)));
    const rows = data.steps.map((step, at) => element("tr", {}, element("th", { scope: "row" }, String(step)),
      ...drawn.map((line) => element("td", {}, format(line.values[at], panel)))));
    return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  }

  function figure(panel, data) {
    const plot = element("div", { class: "plot", role: "img", "aria-label": summary(panel, data) });
    const redraw = () => Plotly.react(plot, traces(panel, data), layout(panel, data), OPTIONS);
    const table = element("div", { class: "numbers", tabindex: "0", role: "region", "aria-label": `Numbers of ${panel.title}` });
    const details = element("details", {}, element("summary", {}, "Numbers"), table);
    details.addEventListener("toggle", () => {
      if (details.open && !table.firstChild) table.append(numbers(panel, data));
    });
    const unit = panel.unit && !panel.share ? element("span", { class: "unit" }, panel.unit) : "";
    const made = element("figure", {},
      element("figcaption", {}, element("h3", {}, panel.title, " ", unit), element("p", {}, panel.note)),
      plot, legend(panel, data, redraw), details);
    return { made, redraw };
  }

  let redraws = [];

  function draw(home, data) {
    redraws = [];
    const groups = [...new Set(data.panels.map((panel) => panel.group))];
    home.replaceChildren(...groups.map((group) => {
      const figures = data.panels.filter((panel) => panel.group === group).map((panel) => figure(panel, data));
      redraws.push(...figures.map((one) => one.redraw));
      return element("section", { "aria-label": group }, element("h2", {}, group),
        element("div", { class: "grid" }, ...figures.map((one) => one.made)));
    }));
    repaint();
  }

  const repaint = () => redraws.forEach((redraw) => redraw());

  return { draw, repaint, element, format, measured };
})();
