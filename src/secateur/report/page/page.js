"use strict";
// Draws the figures of the report. Their numbers are JSON in the page, plotly is compressed in the page: nothing is fetched.
(async () => {
  const root = document.documentElement;
  const page = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const button = document.getElementById("theme");
  const wanted = matchMedia("(prefers-color-scheme: dark)");
  let theme = root.dataset.theme || (wanted.matches ? "dark" : "light");

  const remembered = (value) => {
    try {
      if (value) localStorage.setItem("secateur-theme", value);
      return localStorage.getItem("secateur-theme");
    } catch (error) {
      return null; // storage is closed to files in some browsers; the choice then lasts as long as the page
    }
  };

  // Colours are words, `theme:blue`, and stand under keys that end in color or colorscale.
  const coloured = (value, key) => {
    if (Array.isArray(value)) return value.map((each) => coloured(each, key));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, coloured(each, name)]));
    if (typeof value === "string" && value.startsWith("theme:") && /color(scale)?$/.test(key))
      return page.themes[theme][value.slice(6)];
    return value;
  };

  const bar = (kept, whole, length) => {
    const filled = whole ? Math.round((length * kept) / whole) : 0;
    return "█".repeat(filled) + "·".repeat(length - filled);
  };
  const padded = (value, length) => String(value).padStart(length);
  // One line per layer; several columns of them where there are many.
  const layers = (widths) => {
    const count = widths.length / 2;
    const long = count <= 16;
    const heads = Math.max(...widths.filter((_, place) => place % 2 === 0).map((width) => String(width).length));
    const ffn = Math.max(...widths.filter((_, place) => place % 2 === 1).map((width) => String(width).length));
    const digits = String(count - 1).length;
    const lines = [];
    for (let layer = 0; layer < count; layer++) {
      const [kept, width] = [widths[2 * layer], widths[2 * layer + 1]];
      const numbers = `${padded(layer, digits)}  ${padded(kept, heads)}/${String(width).padEnd(ffn)}`;
      lines.push(
        long && page.dense
          ? `${numbers}  ${bar(kept, page.dense[2 * layer], 6)} ${bar(width, page.dense[2 * layer + 1], 10)}`
          : numbers,
      );
    }
    if (long) return lines.join("<br>");
    const columns = innerWidth < 560 ? 2 : count > 48 ? 4 : 3;
    const height = Math.ceil(count / columns);
    return Array.from({ length: height }, (_, row) =>
      Array.from({ length: columns }, (_, column) => lines[column * height + row] || "").join("   "),
    ).join("<br>");
  };

  const prepared = (trace) => {
    if (!trace.text || trace.hovertemplate || trace.hoverinfo === "skip") return trace;
    const told = trace.hovertext || trace.text;
    const whole = told.map((text, place) => {
      const number = trace.customdata ? trace.customdata[place] : null;
      return number === null || number === undefined ? text : `${text}<br>${layers(page.architectures[number])}`;
    });
    const shown = trace.type === "bar" || trace.mode === "markers+text" ? trace.text : undefined;
    return { ...trace, text: shown, hovertext: whole, hoverinfo: "text" };
  };

  const draw = async (plot) => {
    const figure = page.figures[plot.dataset.figure];
    const narrow = plot.clientWidth < 520;
    const layout = coloured(figure.layout, "layout");
    layout.uirevision = "kept";
    if (narrow) {
      layout.height += 40;
      layout.font = { ...layout.font, size: 11.5 };
      layout.margin = { ...layout.margin, l: 44, r: 8 };
    }
    const traces = figure.data.map((trace) => prepared(coloured(trace, "trace")));
    if (narrow)
      for (const trace of traces)
        if (trace.colorbar) Object.assign(trace, { texttemplate: "" });
    if (narrow)
      for (const trace of traces)
        if (trace.colorbar) trace.colorbar = { ...trace.colorbar, thickness: 8, title: { text: "" } };
    await Plotly.react(plot, traces, layout, {
      responsive: true,
      displaylogo: false,
      // Where nothing hovers it would stand over the picture all the time.
      displayModeBar: !narrow && matchMedia("(hover: hover)").matches ? "hover" : false,
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    });
    plot.classList.add("drawn");
  };

  const drawAll = async () => {
    for (const plot of plots) {
      await draw(plot);
      root.dataset.first = theme;
      await new Promise((go) => setTimeout(go)); // the page stays alive between figures
    }
    root.dataset.drawn = theme;
  };

  const show = async (chosen) => {
    theme = chosen;
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light theme" : "Dark theme";
    if (globalThis.Plotly) await drawAll();
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    const other = theme === "dark" ? "light" : "dark";
    remembered(other);
    show(other);
  });
  wanted.addEventListener("change", (event) => remembered() || show(event.matches ? "dark" : "light"));

  for (const copy of document.querySelectorAll("button[data-copies]")) {
    copy.hidden = !navigator.clipboard;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(copy.dataset.copies).textContent);
      copy.textContent = "Copied";
    });
  }

  const loadPlotly = async () => {
    const packed = document.getElementById("plotly").textContent.trim();
    const bytes = Uint8Array.fromBase64
      ? Uint8Array.fromBase64(packed)
      : Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const url = URL.createObjectURL(new Blob([await new Response(stream).arrayBuffer()], { type: "text/javascript" }));
    await new Promise((go, fail) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = go;
      script.onerror = () => fail(new Error("plotly did not load"));
      document.head.append(script);
    });
    URL.revokeObjectURL(url);
  };

  await show(remembered() || theme);
  try {
    if (!globalThis.DecompressionStream) throw new Error("this browser cannot unpack the figures (it needs DecompressionStream, 2023 or later)");
    if (plots.length) await loadPlotly();
    await drawAll();
  } catch (error) {
    root.classList.add("undrawn");
    const note = document.getElementById("undrawn");
    note.hidden = false;
    note.textContent = `The figures could not be drawn: ${error.message}. The tables below each of them hold the same numbers.`;
  }
})();
