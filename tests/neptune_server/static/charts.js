"use strict";
// Draws each series when it comes into view, in the colours of the page, which may change from light to dark.

const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(title) {
  const line = colour("--line");
  return { title: { text: title }, gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true };
}

function layout() {
  return {
    height: 190,
    margin: { l: 44, r: 8, t: 8, b: 36 },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { color: colour("--quiet"), family: getComputedStyle(document.body).fontFamily, size: 11 },
    xaxis: axis("step"),
    yaxis: axis(""),
    showlegend: false,
  };
}

function trace({ steps, values }) {
  return {
    x: steps,
    y: values,
    type: "scatter",
    mode: values.length > 60 ? "lines" : "lines+markers",
    line: { color: colour("--accent"), width: 1.5 },
    marker: { color: colour("--accent"), size: 4 },
    hovertemplate: "step %{x}<br>%{y}<extra></extra>",
  };
}

function draw(place) {
  const traces = [trace(JSON.parse(place.dataset.chart))];
  Plotly.react(place, traces, layout(), { displayModeBar: false, responsive: true });
  place.classList.add("drawn");
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) {
      seen.unobserve(target);
      draw(target);
    }
  }
});

document.querySelectorAll("[data-chart]").forEach((place) => seen.observe(place));
dark.addEventListener("change", () => document.querySelectorAll(".drawn").forEach(draw));
