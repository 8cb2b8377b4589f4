/* Charts of cost over time: stacked bars, drawn from the table behind them. */
(() => {
  "use strict";
  const NANO = 1e9;
  const colour = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();
  const resolved = (element, number) => {
    const probe = document.createElement("span");
    probe.className = `c${number}`;
    element.append(probe);
    const found = getComputedStyle(probe).backgroundColor;
    probe.remove();
    return found;
  };
  const dollars = (value) => {
    const digits = Math.abs(value) >= 0.01 || value === 0 ? 2 : 6;
    return `${value < 0 ? "−" : ""}$${Math.abs(value).toLocaleString("en-US", {minimumFractionDigits: digits, maximumFractionDigits: digits})}`;
  };

  const read = (table) => {
    const names = [...table.tHead.rows[0].cells].slice(1, -1).map((cell) => cell.textContent);
    const rows = [...table.tBodies[0].rows];
    const spans = rows.map((row) => row.cells[0].textContent);
    const values = names.map((_, place) => rows.map((row) => Number(row.cells[place + 1].querySelector("data").value) / NANO));
    return {names, spans, values};
  };

  const draw = (figure) => {
    const plot = figure.querySelector("[data-plot]");
    const table = figure.querySelector("[data-series]");
    const {names, spans, values} = read(table);
    if (!names.length || !spans.length) return;
    const sums = [];
    for (const [place, series] of values.entries()) {
      sums.push(series.map((value, at) => value + (place ? sums[place - 1][at] : 0)));
    }
    const xs = spans.map((_, at) => at);
    /* The highest sum is drawn first, so that each series covers the part below its own. */
    const order = names.map((_, place) => place).reverse();
    const text = getComputedStyle(plot).color;
    const line = colour(plot, "--line");
    const grid = getComputedStyle(figure.closest(".card") ?? figure).borderTopColor;
    const tip = document.createElement("div");
    tip.className = "tip";
    const bars = uPlot.paths.bars({size: [0.8, 48], radius: 0});
    const options = {
      width: plot.clientWidth || 600,
      height: 260,
      legend: {show: false},
      cursor: {y: false, points: {show: false}},
      scales: {x: {time: false, range: [-0.5, spans.length - 0.5]}, y: {range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.08 : 1]}},
      axes: [
        {stroke: text, grid: {show: false}, ticks: {show: false}, values: (_, ticks) => ticks.map((at) => (Number.isInteger(at) && spans[at] ? spans[at].slice(spans[at].length > 7 ? 5 : 0) : "")), incrs: [1, 2, 5, 7, 14, 28, 56]},
        {stroke: text, grid: {stroke: grid || line, width: 1}, ticks: {show: false}, size: 64, values: (_, ticks) => ticks.map(dollars)},
      ],
      series: [{}, ...order.map((place) => ({label: names[place], fill: resolved(plot, place % 8), width: 0, paths: bars, points: {show: false}}))],
      hooks: {
        setCursor: [(chart) => {
          const at = chart.cursor.idx;
          if (at == null) { tip.replaceChildren(); return; }
          const lines = [[spans[at], dollars(sums[names.length - 1][at])]];
          for (const [place, name] of names.entries()) {
            if (values[place][at]) lines.push([name, dollars(values[place][at])]);
          }
          tip.replaceChildren(...lines.map(([name, amount]) => {
            const row = document.createElement("div");
            for (const part of [name, amount]) {
              const cell = document.createElement("span");
              cell.textContent = part;
              row.append(cell);
            }
            return row;
          }));
        }],
      },
    };
    const chart = new uPlot(options, [xs, ...order.map((place) => sums[place])], plot);
    plot.append(tip);
    /* A bar opens what the total of its row opens. */
    const links = [...table.querySelectorAll("[data-span]")];
    plot.addEventListener("click", () => {
      const at = chart.cursor.idx;
      if (at != null) links[at]?.click();
    });
    new ResizeObserver(() => {
      if (plot.clientWidth && plot.clientWidth !== chart.width) chart.setSize({width: plot.clientWidth, height: 260});
    }).observe(plot);
  };

  window.paygentCharts = (root) => {
    for (const figure of root.querySelectorAll("[data-chart]:not([data-drawn])")) {
      figure.dataset.drawn = "";
      draw(figure);
    }
  };
  window.paygentCharts(document);
})();
