// Draws the home's charts from the page's own data, in the colours of its style sheet; again when the theme changes.
"use strict";

(() => {
  const charts = JSON.parse(document.getElementById("home-charts").textContent);
  const drawn = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Arabic as it is written in Algeria: with western digits.
  const language = { ar: "ar-DZ" }[document.documentElement.lang] || document.documentElement.lang || "en";
  const rightToLeft = document.documentElement.dir === "rtl";
  const usd = new Intl.NumberFormat(language, { style: "currency", currency: "USD", maximumFractionDigits: 4 });
  const number = new Intl.NumberFormat(language);
  const day = new Intl.DateTimeFormat(language, { day: "numeric", month: "short", timeZone: "UTC" });
  const dayName = (iso) => day.format(new Date(`${iso}T00:00:00Z`));

  function base() {
    const quiet = colour("--body-quiet-color");
    return {
      responsive: true,
      maintainAspectRatio: false,
      locale: language,
      animation: false,
      interaction: { mode: "index", intersect: false },
      plugins: {
        legend: { position: "bottom", rtl: rightToLeft, labels: { color: quiet, boxWidth: 12, boxHeight: 12 } },
        tooltip: { padding: 10, rtl: rightToLeft },
      },
    };
  }

  function axis(more = {}) {
    return {
      grid: { color: colour("--chart-grid") },
      border: { display: false },
      ...more,
      ticks: { color: colour("--body-quiet-color"), maxRotation: 0, autoSkipPadding: 16, ...more.ticks },
    };
  }

  function money(data) {
    const sets = [];
    if (data.revenue) {
      sets.push({
        type: "line", label: data.names.revenue, data: data.revenue.map(Number), borderColor: colour("--series-2"),
        backgroundColor: colour("--series-2"), borderWidth: 2, pointRadius: data.labels.length > 45 ? 0 : 2, cubicInterpolationMode: "monotone",
      });
    }
    sets.push({
      type: "bar", label: data.names.cost, data: data.cost.map(Number), backgroundColor: colour("--series-1"), borderRadius: 3,
    });
    const options = base();
    options.plugins.tooltip.callbacks = { label: (item) => `${item.dataset.label}: ${usd.format(item.parsed.y)}` };
    options.scales = {
      x: axis({ reverse: rightToLeft, grid: { display: false } }),
      y: axis({ position: rightToLeft ? "right" : "left", beginAtZero: true, ticks: { callback: (value) => usd.format(value) } }),
    };
    return { data: { labels: data.labels.map(dayName), datasets: sets }, options };
  }

  function calls(data) {
    const bars = (name, values, colourName) => ({
      label: data.names[name], data: values, backgroundColor: colour(colourName), borderRadius: 3, stack: "calls",
    });
    const options = base();
    options.scales = {
      x: axis({ reverse: rightToLeft, grid: { display: false }, stacked: true }),
      y: axis({ position: rightToLeft ? "right" : "left", beginAtZero: true, stacked: true, ticks: { precision: 0 } }),
    };
    const datasets = [bars("served", data.served, "--series-1"), bars("failed", data.failed, "--series-4")];
    return { type: "bar", data: { labels: data.labels.map(dayName), datasets }, options };
  }

  function providers(data) {
    const options = base();
    options.scales = {
      x: axis({ reverse: rightToLeft, grid: { display: false } }),
      y: axis({ position: rightToLeft ? "right" : "left", beginAtZero: true, ticks: { precision: 0 } }),
      latency: axis({ position: rightToLeft ? "left" : "right", beginAtZero: true, grid: { display: false }, ticks: { callback: (value) => `${number.format(value)} ms` } }),
    };
    const datasets = [
      {
        type: "line", label: data.names.latency, data: data.latency, yAxisID: "latency", showLine: false, pointRadius: 6,
        pointStyle: "rectRot", borderColor: colour("--series-3"), backgroundColor: colour("--series-3"),
      },
      {
        type: "bar", label: data.names.requests, data: data.requests, backgroundColor: colour("--series-1"), borderRadius: 3,
        maxBarThickness: 48,
      },
    ];
    return { data: { labels: data.labels, datasets }, options };
  }

  function plans(data) {
    const colours = [1, 2, 3, 4, 5, 6, 7].map((number) => colour(`--series-${number}`));
    const options = base();
    options.cutout = "64%";
    options.plugins.legend.display = false;
    options.interaction = { mode: "nearest" };
    const datasets = [{
      data: data.subscriptions, backgroundColor: colours, borderColor: colour("--card-bg") || "transparent", borderWidth: 2,
    }];
    return { type: "doughnut", data: { labels: data.labels, datasets }, options };
  }

  function use(data) {
    const options = base();
    options.scales = {
      x: axis({ grid: { display: false }, stacked: true }),
      y: axis({ beginAtZero: true, stacked: true, ticks: { precision: 0 } }),
      credits: axis({ position: "right", beginAtZero: true, grid: { display: false } }),
    };
    const bars = (name, colourName) => ({
      type: "bar", label: data.names[name], data: data[name], backgroundColor: colour(colourName), borderRadius: 3, stack: "calls",
    });
    const line = {
      type: "line", label: data.names.credits, data: data.credits.map(Number), yAxisID: "credits", borderColor: colour("--series-2"),
      backgroundColor: colour("--series-2"), borderWidth: 2, pointRadius: 2, cubicInterpolationMode: "monotone",
    };
    return { data: { labels: data.labels.map(dayName), datasets: [line, bars("served", "--series-1"), bars("failed", "--series-4")] }, options };
  }

  const kinds = {
    use: ["use", use],
    money: ["days", money], calls: ["days", calls], providers: ["providers", providers], plans: ["plans", plans],
  };

  function draw() {
    drawn.splice(0).forEach((chart) => chart.destroy());
    document.querySelectorAll("canvas[data-chart]").forEach((canvas) => {
      const [source, configure] = kinds[canvas.dataset.chart];
      if (charts[source]) drawn.push(new Chart(canvas, configure(charts[source])));
    });
  }

  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  draw();
  new MutationObserver(draw).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
