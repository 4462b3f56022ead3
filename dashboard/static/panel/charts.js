"use strict";
// Draws what stands beside each canvas as JSON, in the page's own colours; a table under it says the same in words.
function draw(canvas) {
  const data = JSON.parse(document.getElementById(canvas.dataset.chart).textContent);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const rightToLeft = document.documentElement.dir === "rtl";
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.color = colour("--ink-soft");
  Chart.defaults.borderColor = colour("--line");
  return new Chart(canvas, {
    type: "bar",
    data: {
      labels: data.labels,
      datasets: [{ label: data.label, data: data.values, backgroundColor: colour("--chart-1"), borderRadius: 3, maxBarThickness: 28 }],
    },
    options: {
      animation: false,
      maintainAspectRatio: false,
      locale: document.documentElement.lang,
      plugins: { legend: { display: false }, tooltip: { rtl: rightToLeft } },
      scales: {
        x: { reverse: rightToLeft, grid: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 16 } },
        y: { beginAtZero: true, position: rightToLeft ? "right" : "left", ticks: { maxTicksLimit: 5 } },
      },
    },
  });
}
let charts = [];
function drawAll() {
  charts.forEach((chart) => chart.destroy());
  charts = [...document.querySelectorAll("canvas[data-chart]")].map(draw);
}
drawAll();
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
