/* Live figures of livt/companion/interactive.py: plain script, no kernel, no network. Every number is computed here, in double
   precision, and stands in an element with a data-name, unrounded in its value. */
(() => {
  "use strict";

  const NAMES = { ce: "CE", bal_ce: "Bal-CE", bce: "BCE", bal_bce: "Bal-BCE" };
  const LOSSES = Object.keys(NAMES);
  const DASHED = "9 5";
  const DOTTED = "3 4";
  const SVG = "http://www.w3.org/2000/svg";
  let ids = 0;

  // ------------------------------------------------------------------------------------------------ arithmetic

  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
  const range = (n) => Array.from({ length: n }, (_, i) => i);

  function softmax(z) {
    const top = Math.max(...z);
    const e = z.map((value) => Math.exp(value - top));
    const total = sum(e);
    return e.map((value) => value / total);
  }

  /* log(pi) and log(pi) - log(1 - pi). The odds go through the counts, as 1 - pi would be rounded first. */
  const logPrior = (n, total) => Math.log(n) - Math.log(total);
  const logOdds = (n, total) => Math.log(n) - Math.log(total - n);

  /* livt.longtail.exponential_counts: the addend keeps exact products from being truncated to the integer below. */
  const exponentialCounts = (largest, factor, classes) =>
    range(classes).map((c) => Math.trunc(largest * (1 / factor) ** (c / Math.max(classes - 1, 1)) + 1e-9));

  /* A profile comes as its distinct counts and the number of classes that have each. */
  const expand = (runs) => runs.counts.flatMap((n, i) => new Array(runs.classes[i]).fill(n));

  // -------------------------------------------------------------------------------------------------- numbers

  const minus = (text) => text.replace("-", "−");
  const fixed = (x, digits = 2) => minus(Math.abs(x) < 0.5 * 10 ** -digits ? (0).toFixed(digits) : x.toFixed(digits));
  const superscript = (k) => minus(String(k)).replace(/./g, (c) => (c === "−" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
  const whole = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");

  function small(x) {
    const rounded = Number(x.toPrecision(3));
    if (rounded === 0 || (Math.abs(rounded) >= 0.001 && Math.abs(rounded) < 1e5)) return minus(String(rounded));
    const [digits, k] = x.toExponential(2).split("e");
    return `${minus(digits)} × 10${superscript(Number(k))}`;
  }

  const decade = (x) => {
    const k = Math.round(Math.log10(x));
    return k >= 0 && k < 4 ? String(10 ** k) : `10${superscript(k)}`;
  };

  // ------------------------------------------------------------------------------------------------- elements

  function add(parent, name, attributes = {}, text) {
    const inSvg = name === "svg" || parent.namespaceURI === SVG;
    const element = inSvg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  /* Write a number where readers and tests find it: rounded as text, in full as value. */
  function show(data, value, text) {
    data.value = value;
    data.textContent = text;
  }

  const place = (parent, name) => add(parent, "data", { "data-name": name });

  function slider(parent, { name, label, min, max, step = 1, value }, onInput) {
    const row = add(parent, "div", { class: "livt-control" });
    const id = `livt-${++ids}`;
    add(row, "label", { for: id }, label);
    const input = add(row, "input", { id, type: "range", min, max, step, value, "data-control": name });
    const data = place(row, name);
    input.addEventListener("input", () => onInput(Number(input.value)));
    return {
      input,
      set(position, number, text) {
        input.value = position;
        input.setAttribute("aria-valuetext", text);
        show(data, number, text);
      },
    };
  }

  function select(parent, { name, label, options, value }, onInput) {
    const row = add(parent, "div", { class: "livt-control" });
    const id = `livt-${++ids}`;
    add(row, "label", { for: id }, label);
    const input = add(row, "select", { id, "data-control": name });
    for (const option of options) add(input, "option", { value: option }, option);
    input.value = value;
    input.addEventListener("input", () => onInput(input.value));
    return input;
  }

  /* Text that follows the controls, in a box as high as the longest text makes it: nothing below it moves. */
  function liveText(parent, longest) {
    const box = add(parent, "div", { class: "livt-steady", "data-longest": longest });
    return add(box, "output", { class: "livt-summary", "aria-live": "polite", "data-name": "summary" });
  }

  const longestOf = (texts) => texts.reduce((longest, text) => (text.length > longest.length ? text : longest), "");

  /* A table of numbers with row and column heads; returns its cells by `${column}-${row}`. */
  function table(parent, caption, columns, rows) {
    add(parent, "p", { class: "livt-note" }, caption);
    const box = add(parent, "div", { class: "livt-scroll", tabindex: 0, role: "region", "aria-label": caption });
    const body = add(box, "table", { class: "livt-table", "aria-label": caption });
    const head = add(add(body, "thead"), "tr");
    add(head, "td");
    for (const text of Object.values(columns)) add(head, "th", { scope: "col" }, text);
    const cells = {};
    const lines = add(body, "tbody");
    for (const [row, text] of Object.entries(rows)) {
      const line = add(lines, "tr");
      add(line, "th", { scope: "row" }, text);
      for (const column of Object.keys(columns)) {
        cells[`${column}-${row}`] = place(add(line, "td"), `${column}-${row}`);
      }
    }
    return cells;
  }

  // --------------------------------------------------------------------------------------------------- charts

  function niceTicks(min, max, count) {
    const raw = (max - min) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
    const first = Math.ceil(min / step - 1e-9);
    return range(Math.floor(max / step + 1e-9) - first + 1).map((i) => Number(((first + i) * step).toPrecision(12)));
  }

  function logTicks(min, max, count) {
    const first = Math.ceil(Math.log10(min) - 1e-9);
    const n = Math.floor(Math.log10(max) + 1e-9) - first + 1;
    const every = Math.ceil(n / count);
    return range(n)
      .filter((i) => i % every === 0)
      .map((i) => 10 ** (first + i));
  }

  function chartBox(parent, title, legend = [], wide = false) {
    const box = add(parent, "figure", { class: wide ? "livt-chart livt-wide" : "livt-chart" });
    const caption = add(box, "figcaption", {}, title);
    if (legend.length) {
      const keys = add(caption, "span", { class: "livt-legend" });
      for (const { text, style, dash, mark } of legend) {
        const key = add(keys, "span");
        const sample = add(key, "svg", { width: 30, height: 12, "aria-hidden": "true" });
        if (mark === "bar") add(sample, "rect", { x: 3, y: 1, width: 24, height: 10, class: style });
        else if (mark === "dot") add(sample, "path", { d: "M15 1l5 5l-5 5l-5-5z", class: style });
        else line(sample, "M1 6H29", style, dash);
        add(key, "span", {}, text);
      }
    }
    return box;
  }

  /* A line in a loss's colour, on a darker (on dark pages lighter) casing that lends it contrast. */
  function line(parent, d, style, dash = "") {
    add(parent, "path", { d, class: "livt-casing", "stroke-dasharray": dash });
    add(parent, "path", { d, class: `livt-line-mark ${style}`, "stroke-dasharray": dash });
  }

  /* Draw axes into the box at its present width and call draw(plot, sx, sy, frame) for what lies between them. */
  function chart(box, { x, y, height = 240, label, draw }) {
    const width = Math.max(box.clientWidth || 340, 240);
    const frame = { left: 54, right: width - 12, top: 10, bottom: height - 42 };
    const scale = (axis, from, to) => {
      const f = axis.log ? Math.log10 : (v) => v;
      return (v) => from + ((f(v) - f(axis.min)) / (f(axis.max) - f(axis.min))) * (to - from);
    };
    const sx = scale(x, frame.left, frame.right);
    const sy = scale(y, frame.bottom, frame.top);
    box.querySelector("svg.livt-plot")?.remove();
    const svg = add(box, "svg", {
      class: "livt-plot",
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": label,
    });
    const ticks = (axis, count) => axis.ticks ?? (axis.log ? logTicks : niceTicks)(axis.min, axis.max, count);
    const text = (axis, value) => (axis.format ?? (axis.log ? decade : (v) => minus(String(v))))(value);
    for (const value of ticks(y, 6)) {
      add(svg, "path", { class: "livt-grid", d: `M${frame.left} ${sy(value)}H${frame.right}` });
      add(svg, "text", { x: frame.left - 6, y: sy(value) + 4, "text-anchor": "end" }, text(y, value));
    }
    for (const value of ticks(x, Math.max(3, Math.floor(width / 55)))) {
      if (!x.ticks) add(svg, "path", { class: "livt-grid", d: `M${sx(value)} ${frame.top}V${frame.bottom}` });
      add(svg, "text", { x: sx(value), y: frame.bottom + 16, "text-anchor": "middle" }, text(x, value));
    }
    add(svg, "path", { class: "livt-axis", d: `M${frame.left} ${frame.top}V${frame.bottom}H${frame.right}` });
    add(svg, "text", { x: (frame.left + frame.right) / 2, y: height - 6, "text-anchor": "middle" }, x.label);
    const middle = (frame.top + frame.bottom) / 2;
    const turn = `rotate(-90 13 ${middle})`;
    add(svg, "text", { x: 13, y: middle, "text-anchor": "middle", transform: turn }, y.label);
    const clip = add(svg, "clipPath", { id: `livt-${++ids}` });
    const { left, top } = frame;
    add(clip, "rect", { x: left, y: top - 2, width: frame.right - left, height: frame.bottom - top + 4 });
    draw(add(svg, "g", { "clip-path": `url(#${clip.id})` }), sx, sy, frame, svg);
  }

  const pathOf = (points, sx, sy) => "M" + points.map(([a, b]) => `${sx(a).toFixed(2)} ${sy(b).toFixed(2)}`).join("L");

  /* Enough ranks for a smooth curve: all of a short profile, else every k-th and the last. */
  function curveRanks(classes) {
    const every = Math.ceil(classes / 400);
    return range(classes).filter((i) => i % every === 0 || i === classes - 1);
  }

  /* Render now, and again when the figure's width changes. */
  function keepRendered(root, render) {
    render();
    let width = root.clientWidth;
    new ResizeObserver(() => {
      if (root.clientWidth !== width) {
        width = root.clientWidth;
        render();
      }
    }).observe(root);
  }

  // --------------------------------------------------------------------------------- counts, bias and decision

  function countExplorer(root, data) {
    const start = data.counts;
    const classes = start.length;
    const ranks = range(classes);
    const state = { counts: [...start], moved: classes - 1 };
    const RULES = { bce: "CE, BCE", bal_bce: "Bal-BCE", bal_ce: "Bal-CE" };

    /* Class c is a unit Gaussian at 2 c, on a grid that no boundary of equal classes meets. */
    const last = 2 * (classes - 1) + 4;
    const grid = range(Math.round((last + 4) / 0.05)).map((i) => -4 + 0.05 * i + 0.0125);
    const density = ranks.map((c) => {
      const p = grid.map((x) => Math.exp(-0.5 * (x - 2 * c) ** 2));
      const total = sum(p);
      return p.map((value) => value / total);
    });

    const controls = add(root, "div", { class: "livt-controls" });
    const sliders = ranks.map((c) =>
      slider(
        controls,
        { name: `count${c + 1}`, label: `Images of class ${c + 1}`, min: 0, max: 4, step: 0.01, value: 0 },
        (exponent) => {
          state.counts[c] = Math.round(10 ** exponent);
          state.moved = c;
          render();
        },
      ),
    );
    const summary = liveText(root, summaryOf(8, 88888, 888888, 8.88e-8, -88.88, { bce: 0.888, bal_bce: 1, bal_ce: 0.888 }));
    const charts = add(root, "div", { class: "livt-charts" });
    const key = [{ text: "the class that you moved", style: "livt-bar livt-moved", mark: "bar" }];
    const priorBox = chartBox(charts, "Prior π", key);
    const biasBox = chartBox(charts, "Bias in training, log π − log(1 − π)", key);
    const decisionBox = chartBox(charts, "Which class is decided at test, along a line", [], true);
    const columns = Object.fromEntries(ranks.map((c) => [`class${c + 1}`, `class ${c + 1}`]));
    const details = add(root, "details");
    add(details, "summary", {}, "Numbers");
    const cells = table(details, "Numbers of each class; biases in nats, shares of its own images in percent", columns, {
      pi: "prior π",
      bias: "log π − log(1 − π)",
      bce: "decided right, CE or BCE",
      bal_bce: "decided right, Bal-BCE",
      bal_ce: "decided right, Bal-CE",
    });

    function summaryOf(rank, n, total, pi, bias, shares) {
      const percent = (rule) => `${fixed(100 * shares[rule], 1)} %`;
      return (
        `Class ${rank}: ${whole(n)} of ${whole(total)} images, π = ${small(pi)}, bias ${fixed(bias)} nats. Of its own test ` +
        `images, CE and BCE decide ${percent("bce")} right, Bal-BCE, its bias dropped, ${percent("bal_bce")}; with ` +
        `equal priors it would be ${percent("bal_ce")}, as under Bal-CE.`
      );
    }

    /* The scores by which each loss's minimiser decides, and the class with the highest one at each point. */
    function decide() {
      const total = sum(state.counts);
      const scores = {
        bce: (c, i) => state.counts[c] * density[c][i],
        bal_bce: (c, i) => {
          const others = ranks.filter((j) => j !== c);
          return density[c][i] / (sum(others.map((j) => state.counts[j] * density[j][i])) / (total - state.counts[c]));
        },
        bal_ce: (c, i) => density[c][i],
      };
      const found = {};
      for (const [rule, score] of Object.entries(scores)) {
        const chosen = grid.map((_, i) => ranks.reduce((best, c) => (score(c, i) > score(best, i) ? c : best), 0));
        const shares = ranks.map((c) => sum(density[c].filter((_, i) => chosen[i] === c)));
        found[rule] = { chosen, shares };
      }
      return found;
    }

    function drawStrips(plot, sx, sy, frame, found) {
      Object.keys(RULES).forEach((rule, row) => {
        const { chosen } = found[rule];
        let from = 0;
        for (let i = 1; i <= grid.length; i++) {
          if (i < grid.length && chosen[i] === chosen[from]) continue;
          const c = chosen[from];
          const left = Math.max(sx(grid[from] - 0.025), frame.left);
          const right = Math.min(sx(grid[i - 1] + 0.025), frame.right);
          from = i;
          if (right <= left) continue; // beyond what is drawn
          const style = c === state.moved ? "moved" : c % 2 ? "plain" : "hollow";
          const y = sy(2 - row) - 14;
          add(plot, "rect", { class: `livt-bar livt-${style}`, x: left, y, width: right - left, height: 28 });
          const middle = { x: (left + right) / 2, y: y + 18, "text-anchor": "middle" };
          if (right - left > 14) add(plot, "text", { class: "livt-halo", ...middle }, String(c + 1));
        }
      });
    }

    function render() {
      const { counts, moved } = state;
      const total = sum(counts);
      const priors = counts.map((n) => n / total);
      const biases = counts.map((n) => logOdds(n, total));
      const found = decide();
      ranks.forEach((c) => {
        sliders[c].set(Math.log10(counts[c]), counts[c], whole(counts[c]));
        show(cells[`class${c + 1}-pi`], priors[c], small(priors[c]));
        show(cells[`class${c + 1}-bias`], biases[c], fixed(biases[c]));
        for (const rule of Object.keys(RULES)) {
          const share = 100 * found[rule].shares[c];
          show(cells[`class${c + 1}-${rule}`], share, fixed(share, 1));
        }
      });
      const shares = Object.fromEntries(Object.keys(RULES).map((rule) => [rule, found[rule].shares[moved]]));
      summary.textContent = summaryOf(moved + 1, counts[moved], total, priors[moved], biases[moved], shares);

      const x = { label: "class", min: -0.6, max: classes - 0.4, ticks: ranks, format: (c) => String(c + 1) };
      const bars = (values) => (plot, sx, sy, frame) => {
        const width = (sx(1) - sx(0)) * 0.7;
        ranks.forEach((c) => {
          const [zero, end] = [sy(0), sy(values[c])];
          const size = { x: sx(c) - width / 2, width, y: Math.min(zero, end), height: Math.abs(end - zero) };
          add(plot, "rect", { ...size, class: `livt-bar livt-${c === moved ? "moved" : "plain"}` });
        });
        add(plot, "path", { class: "livt-axis", d: `M${frame.left} ${sy(0)}H${frame.right}` });
      };
      const listed = (values, digits) => ranks.map((c) => `class ${c + 1} ${fixed(values[c], digits)}`).join(", ");
      chart(priorBox, {
        x,
        y: { label: "prior π", min: 0, max: 1, ticks: [0, 0.25, 0.5, 0.75, 1] },
        height: 190,
        label: `Priors: ${listed(priors, 4)}.`,
        draw: bars(priors),
      });
      chart(biasBox, {
        x,
        y: { label: "bias [nats]", min: -12, max: 12, ticks: [-12, -8, -4, 0, 4, 8, 12] },
        height: 190,
        label: `Biases in nats: ${listed(biases, 2)}.`,
        draw: bars(biases),
      });
      chart(decisionBox, {
        x: {
          label: "place on the line; a number marks its class",
          min: -2.5,
          max: last - 1.5,
          ticks: ranks.map((c) => 2 * c),
          format: (place) => String(place / 2 + 1),
        },
        y: { label: "", min: -0.6, max: 2.6, ticks: [0, 1, 2], format: (i) => Object.values(RULES)[2 - i] },
        height: 175,
        label: Object.entries(RULES)
          .map(([rule, name]) => `${name} decides ${fixed(100 * shares[rule], 1)} percent of class ${moved + 1} right`)
          .join("; "),
        draw: (plot, sx, sy, frame) => drawStrips(plot, sx, sy, frame, found),
      });
    }
    return render;
  }

  // ---------------------------------------------------------------------------------- sigmoid, softmax, margin

  function biasExplorer(root, data) {
    const profiles = {};
    for (const [title, runs] of Object.entries(data.datasets)) {
      profiles[title] = { counts: expand(runs), total: sum(runs.counts.map((n, i) => n * runs.classes[i])) };
    }
    const state = { title: data.selected, rank: profiles[data.selected].counts.length, pi: null, tau: data.tau };
    const change = (changed) => {
      Object.assign(state, changed);
      render();
    };
    const lastOf = (title) => profiles[title].counts.length;

    const controls = add(root, "div", { class: "livt-controls" });
    select(
      controls,
      { name: "dataset", label: "Data set", options: Object.keys(profiles), value: state.title },
      (title) => change({ title, rank: lastOf(title), pi: null }),
    );
    const rankSlider = slider(controls, { name: "rank", label: "Class y", min: 1, max: 1, value: 1 }, (rank) =>
      change({ rank, pi: null }),
    );
    const piSlider = slider(
      controls,
      { name: "pi", label: "Its prior π", min: -6, max: -0.05, step: 0.01, value: -3 },
      (exponent) => change({ pi: 10 ** exponent }),
    );
    const tauSlider = slider(
      controls,
      { name: "tau", label: "Strength τ", min: 0, max: Math.max(2, data.tau), step: 0.05, value: state.tau },
      (tau) => change({ tau }),
    );
    const summary = liveText(
      root,
      summaryOf(`A class beside the others of ${longestOf(Object.keys(profiles))}, 888 images`, 8.88e-8, -88.88, -88.88),
    );
    const charts = add(root, "div", { class: "livt-charts" });
    const legend = (plain, balanced) => [
      { text: `${plain}, any class`, style: `livt-${plain === "CE" ? "ce" : "bce"}` },
      { text: `${balanced}, class y`, style: `livt-${plain === "CE" ? "bal_ce" : "bal_bce"}` },
      { text: `${balanced}, head`, style: `livt-${plain === "CE" ? "bal_ce" : "bal_bce"}`, dash: DOTTED },
    ];
    const sigmoidBox = chartBox(charts, "Sigmoid (the arrow is the margin)", legend("BCE", "Bal-BCE"));
    const softmaxBox = chartBox(charts, "Softmax, all other scores 0", legend("CE", "Bal-CE"));
    const marginBox = chartBox(charts, "Margin of class y over the head", [], true);
    const cells = table(
      root,
      "Numbers of class y, in nats; p is its probability in training",
      { bias: "bias", "bias-head": "head's bias", margin: "margin", zero: "p at score 0", even: "score for p = ½" },
      NAMES,
    );

    function summaryOf(who, pi, balBce, balCe) {
      return (
        `${who}: π = ${small(pi)}. For an equal training probability its score must exceed the head's by ` +
        `${fixed(balBce)} nats under Bal-BCE, ${fixed(balCe)} under Bal-CE, 0 without a bias.`
      );
    }

    /* Biases of class y and of the head, and what softmax adds up over the other classes whose scores are 0. A prior
       set by hand leaves the other classes in proportion to each other. */
    function compute() {
      const { counts, total } = profiles[state.title];
      const { tau } = state;
      const n = counts[state.rank - 1];
      const [pi0, head] = [n / total, counts[0] / total];
      const pi = state.pi ?? pi0;
      const shrink = state.pi === null ? 1 : (1 - pi) / (1 - pi0);
      const own = {
        prior: state.pi === null ? logPrior(n, total) : Math.log(pi),
        odds: state.pi === null ? logOdds(n, total) : Math.log(pi) - Math.log1p(-pi),
      };
      let first = own;
      if (state.rank > 1) {
        const share = head * shrink;
        const odds = state.pi === null ? logOdds(counts[0], total) : Math.log(share) - Math.log1p(-share);
        first = { prior: logPrior(counts[0], total) + Math.log(shrink), odds };
      }
      const powers = counts.map((count) => (count / total) ** tau);
      const all = sum(powers);
      const others = shrink ** tau * (all - powers[state.rank - 1]);
      const othersOfHead = shrink ** tau * (all - powers[0] - powers[state.rank - 1]) + pi ** tau;
      const classes = counts.length;
      const row = (bias, biasHead, rival) => ({
        bias,
        "bias-head": biasHead,
        margin: biasHead - bias,
        even: rival - bias,
        zero: sigmoid(bias - rival),
      });
      return {
        n,
        pi,
        classes,
        rows: {
          ce: row(0, 0, Math.log(classes - 1)),
          bal_ce: row(tau * own.prior, tau * first.prior, Math.log(others)),
          bce: row(0, 0, 0),
          bal_bce: row(tau * own.odds, tau * first.odds, 0),
        },
        evenOfHead: {
          bal_ce: state.rank > 1 ? Math.log(othersOfHead) - tau * first.prior : Math.log(others) - tau * own.prior,
          bal_bce: -tau * first.odds,
        },
      };
    }

    function drawCurves(box, plain, balanced, found, last, arrow) {
      const y = { label: "probability in training", min: 0, max: 1, ticks: [0, 0.25, 0.5, 0.75, 1] };
      const { rows } = found;
      const label =
        `${NAMES[plain]} reaches one half at a score of ${fixed(rows[plain].even)}, ${NAMES[balanced]} at ` +
        `${fixed(rows[balanced].even)} for class y and at ${fixed(found.evenOfHead[balanced])} for the head.`;
      const draw = (plot, sx, sy, frame) => {
        const curve = (shift, style, dash) =>
          line(
            plot,
            pathOf(
              range(201)
                .map((i) => -6 + ((last + 6) * i) / 200)
                .map((z) => [z, sigmoid(z - shift)]),
              sx,
              sy,
            ),
            style,
            dash,
          );
        curve(rows[plain].even, `livt-${plain}`);
        curve(found.evenOfHead[balanced], `livt-${balanced}`, DOTTED);
        curve(rows[balanced].even, `livt-${balanced}`);
        if (!arrow) return;
        const [from, to] = [sx(found.evenOfHead[balanced]), sx(rows[balanced].even)];
        if (Math.abs(to - from) < 14) return;
        const tip = to > from ? -6 : 6;
        add(plot, "path", { class: "livt-arrow", d: `M${from} ${sy(0.5)}H${to}m${tip} -4l${-tip} 4l${tip} 4` });
        const middle = Math.min(Math.max((from + to) / 2, frame.left + 30), frame.right - 30);
        const text = `${fixed(rows[balanced].margin)} nats`;
        add(plot, "text", { class: "livt-halo", x: middle, y: sy(0.5) - 8, "text-anchor": "middle" }, text);
      };
      chart(box, { x: { label: "score z [nats]", min: -6, max: last }, y, label, draw });
    }

    function drawMargins(rows) {
      const reach = Math.max(...LOSSES.map((loss) => Math.abs(rows[loss].margin)));
      const max = [2, 5, 10, 20, 40, 80].find((m) => m >= 1.2 * reach) ?? 1.2 * reach; // room for the number
      const min = LOSSES.some((loss) => rows[loss].margin < 0) ? -max : 0;
      const y = { label: "", min: -0.5, max: 3.5, ticks: [0, 1, 2, 3], format: (i) => NAMES[LOSSES[3 - i]] };
      const label = "Margins: " + LOSSES.map((loss) => `${NAMES[loss]} ${fixed(rows[loss].margin)} nats`).join(", ");
      const draw = (plot, sx, sy) => {
        LOSSES.forEach((loss, i) => {
          const { margin } = rows[loss];
          const [zero, end, middle] = [sx(0), sx(margin), sy(3 - i)];
          const size = { x: Math.min(zero, end), width: Math.abs(end - zero), y: middle - 8, height: 16 };
          add(plot, "rect", { ...size, class: `livt-bar livt-${loss}` });
          const side = margin < 0 ? { x: end - 6, "text-anchor": "end" } : { x: end + 6, "text-anchor": "start" };
          add(plot, "text", { class: "livt-halo", y: middle + 4, ...side }, fixed(margin));
        });
      };
      chart(marginBox, { x: { label: "margin [nats]", min, max }, y, height: 160, label, draw });
    }

    function render() {
      const found = compute();
      const { n, pi, classes, rows } = found;
      rankSlider.input.max = classes;
      const byHand = state.pi !== null;
      rankSlider.set(
        state.rank,
        state.rank,
        `rank ${whole(state.rank)} of ${whole(classes)}: ${byHand ? "π set by hand" : `${whole(n)} images`}`,
      );
      piSlider.set(Math.log10(pi), pi, small(pi));
      tauSlider.set(state.tau, state.tau, fixed(state.tau));
      const who = byHand
        ? `A class beside the others of ${state.title}`
        : `${state.title}, rank ${whole(state.rank)} of ${whole(classes)}, ${whole(n)} images`;
      summary.textContent = summaryOf(who, pi, rows.bal_bce.margin, rows.bal_ce.margin);
      const reach = Math.max(...LOSSES.map((loss) => rows[loss].even));
      const last = [12, 18, 24, 36, 48, 64, 96].find((m) => m >= reach + 4) ?? Math.ceil(reach + 4);
      drawCurves(sigmoidBox, "bce", "bal_bce", found, last, true);
      drawCurves(softmaxBox, "ce", "bal_ce", found, last, false);
      drawMargins(rows);
      for (const loss of LOSSES) {
        for (const [name, value] of Object.entries(rows[loss])) {
          show(cells[`${name}-${loss}`], value, name === "zero" ? small(value) : fixed(value));
        }
      }
    }
    return render;
  }

  // ------------------------------------------------------------------------------- profile and the second term

  function profileExplorer(root, data) {
    const titles = [...Object.keys(data.profiles), ...Object.keys(data.datasets)];
    const smallest = Math.min(...Object.values(data.profiles).map((profile) => profile.largest));
    const steps = factors(smallest);
    const state = { title: titles[0], step: closest(steps, data.imbalance_factor) };
    const change = (changed) => {
      Object.assign(state, changed);
      render();
    };

    /* 1, 1.1, ..., 9.9, 10, 11, ..., as far as the smallest profile goes. */
    function factors(limit) {
      const found = [];
      for (let power = 1; power <= limit; power *= 10) {
        for (let digits = 10; digits < 100 && (digits * power) / 10 <= limit; digits++)
          found.push((digits * power) / 10);
      }
      return found;
    }
    function closest(values, wanted) {
      const distance = values.map((value) => Math.abs(value - wanted));
      return distance.indexOf(Math.min(...distance));
    }

    const controls = add(root, "div", { class: "livt-controls" });
    select(controls, { name: "profile", label: "Profile", options: titles, value: state.title }, (title) =>
      change({ title }),
    );
    const factorSlider = slider(
      controls,
      { name: "imbalance-factor", label: "Imbalance factor", min: 0, max: steps.length - 1, value: state.step },
      (step) => change({ step }),
    );
    const summary = liveText(root, summaryOf(777.7, 888.8, 8888, 8.88e-8, 8888));
    const charts = add(root, "div", { class: "livt-charts" });
    const countBox = chartBox(charts, "Class profile");
    const biasBox = chartBox(charts, "Bias of each class", [
      { text: "log π (Bal-CE)", style: "livt-bal_ce livt-thick" },
      { text: "log π − log(1 − π) (Bal-BCE)", style: "livt-bal_bce", dash: DASHED },
    ]);
    const secondBox = chartBox(
      charts,
      "Second term, −log(1 − π)",
      [
        { text: `over ${data.threshold} nats above the tail's: it matters`, style: "livt-bar livt-bal_bce", mark: "bar" },
        { text: "less", style: "livt-bar livt-plain", mark: "bar" },
      ],
      true,
    );
    const cells = table(
      root,
      "Numbers of the profile, in nats but for images and prior",
      { images: "images", pi: "prior π", "bias-ce": "log π", "bias-bce": "log π − log(1 − π)", second: "second term" },
      { head: "head class", tail: "tail class" },
    );
    const note = add(root, "p", { class: "livt-note" });
    note.append("Margin of the tail over the head: Bal-CE ");
    const marginCe = place(note, "margin-ce");
    note.append(" nats, Bal-BCE ");
    const marginBce = place(note, "margin-bce");
    note.append(" nats. Classes whose second term exceeds that of the tail by ", String(data.threshold), " nats: ");
    const matters = place(note, "matters");
    note.append(". Largest count over smallest: ");
    const realised = place(note, "realised");
    note.append(".");

    /* What a bias does, it does by its differences: a term that all classes have alike moves no decision. */
    function summaryOf(asked, factor, classes, extra, above) {
      const cut = Math.abs(factor / asked - 1) < 0.005 ? "" : ` (of the ${small(asked)} asked for, as images are whole)`;
      const where =
        above === 0
          ? "It matters for no class."
          : `It matters for the largest ${above === 1 ? "class" : `${whole(above)} classes`}.`;
      const alike = "all have the same second term, so it moves no decision.";
      const added = `the second term adds ${small(extra)} nats to the margin of the tail over the head. ${where}`;
      return `Imbalance factor ${small(factor)}${cut}, ${whole(classes)} classes: ${extra === 0 ? alike : added}`;
    }

    function render() {
      const real = data.datasets[state.title];
      const profile = data.profiles[state.title];
      const counts = real ? expand(real) : exponentialCounts(profile.largest, steps[state.step], profile.classes);
      const classes = counts.length;
      const total = sum(counts);
      const bce = counts.map((n) => logOdds(n, total));
      const ce = counts.map((n) => logPrior(n, total));
      const second = counts.map((n) => -Math.log1p(-n / total));
      const factor = counts[0] / counts[classes - 1];
      const asked = real ? factor : steps[state.step];
      factorSlider.input.disabled = Boolean(real);
      factorSlider.set(
        real ? closest(steps, factor) : state.step,
        asked,
        real ? `${small(factor)}, as published` : small(asked),
      );

      const matter = data.threshold + second[classes - 1];
      const above = second.filter((value) => value > matter).length;
      show(realised, factor, small(factor));
      show(matters, above, `${whole(above)} of ${whole(classes)}`);
      show(marginCe, ce[0] - ce[classes - 1], fixed(ce[0] - ce[classes - 1]));
      show(marginBce, bce[0] - bce[classes - 1], fixed(bce[0] - bce[classes - 1]));
      for (const [row, c] of [
        ["head", 0],
        ["tail", classes - 1],
      ]) {
        show(cells[`images-${row}`], counts[c], whole(counts[c]));
        show(cells[`pi-${row}`], counts[c] / total, small(counts[c] / total));
        show(cells[`bias-ce-${row}`], ce[c], fixed(ce[c]));
        show(cells[`bias-bce-${row}`], bce[c], fixed(bce[c]));
        show(cells[`second-${row}`], second[c], small(second[c]));
      }
      summary.textContent = summaryOf(asked, factor, classes, second[0] - second[classes - 1], above);

      const ranks = curveRanks(classes);
      const edge = classes <= 50 ? 0.6 : 0;
      const x = { label: "class rank, 1 = most images", min: 1 - edge, max: classes + edge };
      if (classes <= 20) x.ticks = range(classes).map((i) => i + 1);
      /* A bar per class; of many classes, the area under their curve. Those below `split` in rank are highlighted. */
      const bars = (plot, sx, top, bottom, split) => {
        const style = (high) => (high ? "livt-bar livt-bal_bce" : "livt-bar livt-plain");
        if (classes <= 50) {
          const width = (sx(2) - sx(1)) * 0.8;
          for (const i of ranks) {
            add(plot, "rect", {
              class: style(i < split),
              x: sx(i + 1) - width / 2,
              y: top(i),
              width,
              height: bottom - top(i),
            });
          }
          return;
        }
        for (const high of [true, false]) {
          const part = high ? ranks.filter((i) => i < split) : ranks.filter((i) => i >= split);
          if (part.length === 0) continue;
          const outline = part.map((i) => `${sx(i + 1).toFixed(2)} ${top(i).toFixed(2)}`).join("L");
          const end = sx(part[part.length - 1] + 1);
          add(plot, "path", { class: style(high), d: `M${sx(part[0] + 1)} ${bottom}L${outline}L${end} ${bottom}Z` });
        }
      };
      chart(countBox, {
        x,
        y: { label: "training images", log: true, min: 0.9, max: 10 ** Math.ceil(Math.log10(counts[0] * 1.01)) },
        label: `Images per class fall from ${counts[0]} to ${counts[classes - 1]} over ${classes} classes.`,
        draw: (plot, sx, sy, frame) => bars(plot, sx, (i) => sy(counts[i]), frame.bottom, 0),
      });
      const lowest = Math.min(...ce);
      chart(biasBox, {
        x,
        y: { label: "bias [nats]", min: Math.floor(lowest - 0.5), max: Math.max(1, Math.ceil(bce[0] + 0.2)) },
        label:
          `Both biases fall from head to tail: log pi from ${fixed(ce[0])} to ${fixed(ce[classes - 1])}, ` +
          `log pi minus log of 1 minus pi from ${fixed(bce[0])} to ${fixed(bce[classes - 1])} nats.`,
        draw: (plot, sx, sy) => {
          line(
            plot,
            pathOf(
              ranks.map((i) => [i + 1, ce[i]]),
              sx,
              sy,
            ),
            "livt-bal_ce livt-thick",
          );
          line(
            plot,
            pathOf(
              ranks.map((i) => [i + 1, bce[i]]),
              sx,
              sy,
            ),
            "livt-bal_bce",
            DASHED,
          );
          if (classes <= 20)
            for (const i of ranks)
              add(plot, "circle", { class: "livt-bar livt-bal_bce", cx: sx(i + 1), cy: sy(bce[i]), r: 3.5 });
        },
      });
      const low = 10 ** Math.min(-2, Math.floor(Math.log10(second[classes - 1])));
      chart(secondBox, {
        x,
        y: {
          label: "second term [nats]",
          log: true,
          min: low,
          max: 10 ** Math.max(0, Math.ceil(Math.log10(second[0]))),
        },
        height: 220,
        label: `The second term falls from ${small(second[0])} to ${small(second[classes - 1])} nats; ${above} of ${classes} classes lie more than ${data.threshold} above the tail.`,
        draw: (plot, sx, sy, frame) => {
          bars(plot, sx, (i) => sy(second[i]), frame.bottom, above);
          add(plot, "path", { class: "livt-threshold", d: `M${frame.left} ${sy(matter)}H${frame.right}` });
          add(
            plot,
            "text",
            { class: "livt-halo", x: frame.right - 4, y: sy(matter) - 5, "text-anchor": "end" },
            `${data.threshold} nats above the tail`,
          );
        },
      });
    }
    return render;
  }

  // ------------------------------------------------------------------------------------- gradients of a batch

  function gradientFlow(root, data) {
    const classes = data.counts.length;
    const images = sum(data.counts);
    const labels = data.counts.flatMap((n, c) => new Array(n).fill(c));
    const odds = data.counts.map((n) => logOdds(n, images));
    const priors = data.counts.map((n) => logPrior(n, images));
    const state = { confidence: data.confidence, tau: data.tau };
    const change = (changed) => {
      Object.assign(state, changed);
      render();
    };

    const controls = add(root, "div", { class: "livt-controls" });
    const confidenceSlider = slider(
      controls,
      { name: "confidence", label: "Confidence of the scores", min: 0, max: 8, step: 0.25, value: state.confidence },
      (confidence) => change({ confidence }),
    );
    const tauSlider = slider(
      controls,
      { name: "tau", label: "Strength τ", min: 0, max: 2, step: 0.05, value: state.tau },
      (tau) => change({ tau }),
    );
    const tail = classes - 1;
    const summary = liveText(root, summaryOf(() => -0.888));
    const charts = add(root, "div", { class: "livt-charts" });
    const boxes = {};
    for (const loss of LOSSES) {
      boxes[loss] = chartBox(charts, NAMES[loss], [
        { text: "own images", style: `livt-bar livt-${loss}`, mark: "bar" },
        { text: "other images", style: "livt-bar livt-hollow", mark: "bar" },
        { text: "sum", style: "livt-sum", mark: "dot" },
      ]);
    }
    const rows = {};
    for (const loss of LOSSES) {
      for (const [part, text] of [
        ["pull", "own"],
        ["push", "others"],
        ["net", "sum"],
      ])
        rows[`${part}-${loss}`] = `${NAMES[loss]}, ${text}`;
    }
    const details = add(root, "details");
    add(details, "summary", {}, "Numbers");
    const columns = {};
    data.counts.forEach((n, c) => (columns[`class${c}`] = `${n} ${n === 1 ? "image" : "images"}`));
    const cells = table(details, "Force on the score of each class, −∂L/∂z summed over the images", columns, rows);

    /* Minus the gradient of each loss by the scores, summed over a class's own images and over all others. Softmax
       and sigmoid losses have the same form, probability minus target, and are means over the batch. */
    function forces() {
      const found = {};
      for (const loss of LOSSES) {
        const bias = { bal_ce: priors, bal_bce: odds }[loss]?.map((b) => state.tau * b) ?? new Array(classes).fill(0);
        const pull = new Array(classes).fill(0);
        const push = new Array(classes).fill(0);
        labels.forEach((label, i) => {
          const z = bias.map((b, c) => b + state.confidence * ((c === label ? 1 : 0) + data.noise[i][c]));
          const p = loss.endsWith("bce") ? z.map(sigmoid) : softmax(z);
          p.forEach((probability, c) => {
            if (c === label) pull[c] += (1 - probability) / images;
            else push[c] -= probability / images;
          });
        });
        found[loss] = { pull, push, net: pull.map((value, c) => value + push[c]) };
      }
      return found;
    }

    function summaryOf(net) {
      return (
        `Sum of forces on the score of the tail class (${data.counts[tail]} of ${images} images): ` +
        LOSSES.map((loss) => `${NAMES[loss]} ${fixed(net(loss), 3)}`).join(", ") +
        ". Above zero the score rises."
      );
    }

    function render() {
      confidenceSlider.set(
        state.confidence,
        state.confidence,
        state.confidence === 0 ? "0, a fresh classifier" : fixed(state.confidence),
      );
      tauSlider.set(state.tau, state.tau, fixed(state.tau));
      const found = forces();
      const extreme = Math.max(...LOSSES.flatMap((loss) => [...found[loss].pull, ...found[loss].push.map((v) => -v)]));
      const limit = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1].find((m) => m >= extreme * 1.02) ?? extreme;
      for (const loss of LOSSES) {
        const { pull, push, net } = found[loss];
        chart(boxes[loss], {
          x: {
            label: "images of the class in the batch",
            min: -0.6,
            max: classes - 0.4,
            ticks: range(classes),
            format: (c) => String(data.counts[c]),
          },
          y: { label: "force, −∂L/∂z", min: -limit, max: limit },
          height: 230,
          label:
            `${NAMES[loss]}, sum of forces per class: ` +
            net.map((value, c) => `${data.counts[c]} images ${fixed(value, 3)}`).join(", "),
          draw: (plot, sx, sy, frame) => {
            const wide = (sx(1) - sx(0)) * 0.7;
            range(classes).forEach((c) => {
              const x = sx(c) - wide / 2;
              add(plot, "rect", {
                class: `livt-bar livt-${loss}`,
                x,
                width: wide,
                y: sy(pull[c]),
                height: sy(0) - sy(pull[c]),
              });
              add(plot, "rect", {
                class: "livt-bar livt-hollow",
                x,
                width: wide,
                y: sy(0),
                height: sy(push[c]) - sy(0),
              });
            });
            add(plot, "path", { class: "livt-axis", d: `M${frame.left} ${sy(0)}H${frame.right}` });
            range(classes).forEach((c) =>
              add(plot, "path", { class: "livt-sum", d: `M${sx(c)} ${sy(net[c]) - 5}l5 5l-5 5l-5-5z` }),
            );
          },
        });
        for (const [part, values] of Object.entries(found[loss])) {
          values.forEach((value, c) => show(cells[`class${c}-${part}-${loss}`], value, fixed(value, 3)));
        }
      }
      summary.textContent = summaryOf((loss) => found[loss].net[tail]);
    }
    return render;
  }

  // ------------------------------------------------------------------------------------------ masked autoencoder

  function maeStepper(root, data) {
    const image = data.original;
    const [height, width] = [image.length, image[0].length];
    const columns = width / data.patch_size;
    const patches = data.order.length;
    const patchAt = (r, c) => Math.floor(r / data.patch_size) * columns + Math.floor(c / data.patch_size);
    const stops = Object.keys(data.reconstructions)
      .map(Number)
      .sort((a, b) => b - a); // few removed first
    let stop = stops.indexOf(data.shown);

    /* Mean squared error over the pixels of hidden patches, grey levels on a scale of 0 to 1. */
    function error(visible) {
      const kept = new Set(data.order.slice(0, visible));
      const prediction = data.reconstructions[visible];
      let [total, n] = [0, 0];
      image.forEach((row, r) =>
        row.forEach((value, c) => {
          if (kept.has(patchAt(r, c))) return;
          total += ((prediction[r][c] - value) / 255) ** 2;
          n += 1;
        }),
      );
      return total / n;
    }
    const errors = new Map(stops.map((visible) => [visible, error(visible)]));

    const controls = add(root, "div", { class: "livt-controls" });
    const removedSlider = slider(
      controls,
      { name: "removed", label: "Hidden patches", min: 0, max: stops.length - 1, value: stop },
      (position) => {
        stop = position;
        render();
      },
    );
    const summary = liveText(
      root,
      `Mask ratio 88.8 %, visible patches ${patches} of ${patches}, mean squared error over hidden patches 0.8888 (grey ` +
        "levels from 0 to 1).",
    );
    summary.append("Mask ratio ");
    const ratio = place(summary, "mask-ratio");
    summary.append(", visible patches ");
    const seen = place(summary, "visible");
    summary.append(", mean squared error over hidden patches ");
    const mse = place(summary, "mse");
    summary.append(" (grey levels from 0 to 1).");
    const panels = add(root, "div", { class: "livt-images" });
    const panel = (title) => {
      const box = add(panels, "figure", { class: "livt-chart" });
      add(box, "figcaption", {}, title);
      const svg = add(box, "svg", {
        class: "livt-pixels",
        viewBox: `0 0 ${width} ${height}`,
        role: "img",
        "aria-label": title,
      });
      const pixels = image.map((row, r) =>
        row.map((_, c) => add(svg, "rect", { x: c, y: r, width: 1.02, height: 1.02 })),
      );
      for (let x = data.patch_size; x < width; x += data.patch_size)
        add(svg, "path", { class: "livt-cut", d: `M${x} 0V${height}` });
      for (let y = data.patch_size; y < height; y += data.patch_size)
        add(svg, "path", { class: "livt-cut", d: `M0 ${y}H${width}` });
      return { svg, pixels };
    };
    const [full, masked, rebuilt] = [panel("Original"), panel("Visible patches"), panel("Reconstruction")];
    const charts = add(root, "div", { class: "livt-charts" });
    const errorBox = chartBox(charts, "Error over hidden patches", [], true);

    const grey = (value) => {
      const level = Math.round(Math.min(Math.max(value, 0), 255));
      return `rgb(${level},${level},${level})`;
    };
    function paint({ pixels }, colour) {
      pixels.forEach((row, r) =>
        row.forEach((pixel, c) => {
          const fill = colour(r, c);
          pixel.setAttribute("class", fill === null ? "livt-removed" : "");
          if (fill === null) pixel.removeAttribute("fill");
          else pixel.setAttribute("fill", fill);
        }),
      );
    }
    paint(full, (r, c) => grey(image[r][c]));

    function render() {
      const visible = stops[stop];
      const removed = patches - visible;
      const kept = new Set(data.order.slice(0, visible));
      const prediction = data.reconstructions[visible];
      const isKept = (r, c) => kept.has(patchAt(r, c));
      paint(masked, (r, c) => (isKept(r, c) ? grey(image[r][c]) : null));
      paint(rebuilt, (r, c) => grey(isKept(r, c) ? image[r][c] : prediction[r][c]));
      masked.svg.setAttribute("aria-label", `The ${visible} visible patches of ${patches}; the others are blank.`);
      rebuilt.svg.setAttribute("aria-label", `The visible patches, and ${removed} patches as predicted.`);
      removedSlider.set(stop, removed, `${removed} of ${patches}`);
      show(ratio, removed / patches, `${fixed((100 * removed) / patches, 1)} %`);
      show(seen, visible, `${visible} of ${patches}`);
      show(mse, errors.get(visible), fixed(errors.get(visible), 4));
      const worst = Math.max(...errors.values()) || 1;
      const share = (v) => (100 * (patches - v)) / patches;
      chart(errorBox, {
        x: { label: "mask ratio [%]", min: 0, max: 100 },
        y: { label: "mean squared error", min: 0, max: worst * 1.1, format: small },
        height: 200,
        label: `Error against mask ratio; here ${fixed(share(visible), 1)} percent and ${fixed(errors.get(visible), 4)}.`,
        draw: (plot, sx, sy) => {
          line(
            plot,
            pathOf(
              stops.map((v) => [share(v), errors.get(v)]),
              sx,
              sy,
            ),
            "livt-ce",
          );
          add(plot, "circle", {
            class: "livt-bar livt-bce",
            cx: sx(share(visible)),
            cy: sy(errors.get(visible)),
            r: 6,
          });
        },
      });
    }
    return render;
  }

  // ----------------------------------------------------------------------------------------- clusters that fill

  function massExplorer(root, data) {
    const COLOURS = ["ce", "bal_bce", "bce", "bal_ce"];
    const clusters = range(data.shares.length);
    const methods = Object.keys(data.methods);
    const state = { method: data.shown, stop: 0 };
    const controls = add(root, "div", { class: "livt-controls" });
    const pick = { name: "method", label: "Labels by", options: methods, value: state.method };
    select(controls, pick, (method) => {
      state.method = method;
      render();
    });
    const last = data.stops.length - 1;
    const mass = slider(controls, { name: "mass", label: "Mass ρ", min: 0, max: last, value: 0 }, (stop) => {
      state.stop = stop;
      render();
    });
    const textOf = (rho, taken, right, fills) =>
      `At ρ = ${fixed(rho)}, ${taken} of ${data.points.length} points are labelled by more than half, ${right} of them ` +
      `as their group. Of all mass the clusters hold ${fills.map((v) => `${fixed(100 * v, 1)} %`).join(", ")}.`;
    const summary = liveText(root, textOf(0.88, 888, 888, clusters.map(() => 0.888)));
    const charts = add(root, "div", { class: "livt-charts" });
    const scatter = chartBox(charts, "Points and prototypes (diamonds); filled as far as labelled");
    const key = [{ text: "the group's true share", style: "livt-line-mark", dash: DASHED }];
    const bars = chartBox(charts, "How full the clusters are", key);

    function drawPoints(plot, sx, sy, labels, weights) {
      data.points.forEach(([x, y], i) => {
        const own = { class: `livt-bar livt-${COLOURS[labels[i]]}`, cx: sx(x), cy: sy(y), r: 5 };
        add(plot, "circle", { ...own, "fill-opacity": weights[i] });
      });
      data.prototypes.forEach(([x, y], k) => {
        const [cx, cy] = [sx(x), sy(y)];
        add(plot, "path", { class: `livt-bar livt-${COLOURS[k]}`, d: `M${cx} ${cy - 9}l9 9l-9 9l-9-9z` });
        add(plot, "text", { class: "livt-halo", x: cx, y: cy - 13, "text-anchor": "middle" }, String(k + 1));
      });
    }

    function drawBars(plot, sx, sy, fills) {
      const half = (sx(2) - sx(1)) * 0.32;
      for (const k of clusters) {
        const [x, y] = [sx(k + 1) - half, sy(fills[k])];
        add(plot, "rect", { class: `livt-bar livt-${COLOURS[k]}`, x, y, width: 2 * half, height: sy(0) - y });
        line(plot, `M${x - 4} ${sy(data.shares[k])}h${2 * half + 8}`, "", DASHED);
      }
    }

    function render() {
      const { fills, labels, weights } = data.methods[state.method];
      const [fill, label, weight] = [fills, labels, weights].map((values) => values[state.stop]);
      const rho = data.stops[state.stop];
      const taken = range(label.length).filter((i) => weight[i] > 0.5);
      const right = taken.filter((i) => label[i] === data.groups[i]).length;
      mass.set(state.stop, rho, fixed(rho));
      summary.textContent = textOf(rho, taken.length, right, fill);
      const [xs, ys] = [0, 1].map((axis) => data.points.map((point) => point[axis]));
      const span = (values) => ({ min: Math.floor(Math.min(...values)), max: Math.ceil(Math.max(...values)) });
      chart(scatter, {
        x: { label: "first feature", ...span(xs) },
        y: { label: "second feature", ...span(ys) },
        label: `${taken.length} of ${label.length} points are labelled, ${right} of them as their group.`,
        draw: (plot, sx, sy) => drawPoints(plot, sx, sy, label, weight),
      });
      chart(bars, {
        x: { label: "cluster", min: 0.4, max: clusters.length + 0.6, ticks: clusters.map((k) => k + 1) },
        y: { label: "share of all mass", min: 0, max: 0.6 },
        label: `Shares of all mass: ${fill.map((v, k) => `cluster ${k + 1} ${fixed(100 * v, 1)} percent`).join(", ")}.`,
        draw: (plot, sx, sy) => drawBars(plot, sx, sy, fill),
      });
    }
    return render;
  }

  // ---------------------------------------------------------------------------------------------------- proof

  function proofSteps(root, data) {
    const content = root.querySelector(".livt-content");
    const lines = [...content.querySelectorAll(".livt-line")];
    let shown = 1;
    const buttons = document.createElement("div");
    buttons.className = "livt-controls livt-buttons";
    content.before(buttons);
    const button = (name, text, count) => {
      const element = add(buttons, "button", { type: "button", "data-control": name }, text);
      element.addEventListener("click", () => {
        shown = Math.min(count(), lines.length);
        render();
      });
      return element;
    };
    const next = button("next", "Next line", () => shown + 1);
    const all = button("all", "All lines", () => lines.length);
    const again = button("again", "Start again", () => 1);
    const progress = add(buttons, "output", { "aria-live": "polite", "data-name": "progress" });

    function render() {
      // Not display: none, in which MathJax could not measure.
      lines.forEach((item, i) => item.classList.toggle("livt-folded", i >= shown));
      // A disabled button would drop the keyboard's focus.
      const done = shown === lines.length;
      for (const [element, idle] of [
        [next, done],
        [all, done],
        [again, shown === 1],
      ])
        element.setAttribute("aria-disabled", idle);
      progress.textContent = `Line ${shown} of ${lines.length}: ${data.lines[shown - 1]}`;
    }
    return render;
  }

  // -------------------------------------------------------------------------------------- from BCE to Bal-BCE

  function anatomyExplorer(root, data) {
    const STARTS = { zero: "1/2 for every class", uniform: "1/C for every class", prior: "the prior" };
    const first = Object.keys(data.panels)[0];
    const groupsOf = (title) => Object.keys(data.panels[title].zero["0"]);
    const state = { title: first, group: groupsOf(first)[0], start: "prior", removal: true, tau: data.tau };
    const strengths = () => Object.keys(data.panels[state.title].zero).map(Number).sort((a, b) => a - b);
    const nearest = (wanted) =>
      strengths().reduce((best, tau) => (Math.abs(tau - wanted) < Math.abs(best - wanted) ? tau : best));
    const change = (changed) => {
      Object.assign(state, changed);
      state.tau = nearest(state.tau);
      if (!groupsOf(state.title).includes(state.group)) state.group = groupsOf(state.title)[0];
      render();
    };

    const controls = add(root, "div", { class: "livt-controls" });
    const titles = Object.keys(data.panels);
    if (titles.length > 1)
      select(controls, { name: "data", label: "Data", options: titles, value: first }, (title) => change({ title }));
    const groups = { name: "group", label: "Classes", options: groupsOf(first), value: state.group };
    select(controls, groups, (group) => change({ group }));
    const starts = { name: "start", label: "Start of the classifier", options: Object.values(STARTS) };
    select(controls, { ...starts, value: STARTS.prior }, (text) =>
      change({ start: Object.keys(STARTS).find((key) => STARTS[key] === text) }),
    );
    const row = add(controls, "div", { class: "livt-control" });
    const id = `livt-${++ids}`;
    add(row, "label", { for: id }, "Subtract the bias at test");
    const removal = add(row, "input", { id, type: "checkbox", "data-control": "removal" });
    removal.checked = state.removal;
    removal.addEventListener("input", () => change({ removal: removal.checked }));
    const tauSlider = slider(
      controls,
      { name: "tau", label: "Strength τ subtracted", min: 0, max: strengths().length - 1, value: 0 },
      (i) => change({ tau: strengths()[i] }),
    );
    const summary = liveText(root);
    const box = chartBox(root, "Accuracy, from BCE as it is to what is chosen", [
      { text: "BCE, start at 1/2", style: "livt-bar livt-bce", mark: "bar" },
      { text: "gain or loss of a step", style: "livt-bar livt-plain", mark: "bar" },
      { text: "result", style: "livt-bar livt-bal_bce", mark: "bar" },
    ]);
    const rows = { base: "BCE, start at 1/2", plateau: "leaving the plateau", prior: "prior in the start" };
    Object.assign(rows, { removal: "removal at test", result: "result" });
    const cells = table(root, "Accuracy and steps, in percent and points, means over the seeds", { value: "" }, rows);

    /* Each step is a difference of measured means; what is not chosen adds nothing. */
    function compute() {
      const of = (start, tau) => data.panels[state.title][start][String(tau)][state.group];
      const tau = state.removal ? state.tau : 0;
      const base = of("zero", 0);
      const plateau = state.start === "zero" ? 0 : of("uniform", 0) - base;
      const prior = state.start === "prior" ? of("prior", 0) - of("uniform", 0) : 0;
      const result = of(state.start, tau);
      return { base, plateau, prior, removal: result - of(state.start, 0), result };
    }

    function render() {
      const all = strengths();
      tauSlider.input.max = all.length - 1;
      tauSlider.input.disabled = !state.removal;
      const of = `${state.tau}${all.length < 3 ? ", measured at 0 and 1 alone" : ""}`;
      tauSlider.set(all.indexOf(state.tau), state.tau, of);
      const missing = data.panels[state.title].zero["0"][state.group] === null;
      const found = missing ? Object.fromEntries(Object.keys(rows).map((name) => [name, NaN])) : compute();
      for (const name of Object.keys(rows)) {
        const sign = ["plateau", "prior", "removal"].includes(name) && found[name] >= 0.05 ? "+" : "";
        show(cells[`value-${name}`], found[name], missing ? "no class" : sign + fixed(found[name], 1));
      }
      const gain = found.result - found.base;
      summary.textContent = missing
        ? `${state.title} has no ${state.group} classes.`
        : `${state.title}, ${state.group} classes: ${fixed(found.base, 1)} % becomes ${fixed(found.result, 1)} %, ` +
          `${gain >= 0.05 ? "+" : ""}${fixed(gain, 1)} points.`;
      const names = ["BCE", "plateau", "prior", "removal", "result"];
      let level = 0;
      const bars = Object.keys(rows).map((name) => {
        if (name === "base" || name === "result") return { from: 0, to: (level = found[name]) };
        return { from: level, to: (level += found[name]) };
      });
      chart(box, {
        x: { label: "", min: -0.6, max: 4.6, ticks: range(5), format: (i) => names[i] },
        y: { label: "accuracy [%]", min: 0, max: 100 },
        label: summary.textContent,
        draw: (plot, sx, sy) => {
          if (missing) return;
          const width = (sx(1) - sx(0)) * 0.7;
          const styles = ["livt-bce", "livt-plain", "livt-plain", "livt-plain", "livt-bal_bce"];
          bars.forEach(({ from, to }, i) => {
            const [low, high] = [Math.min(from, to), Math.max(from, to)];
            const place = { x: sx(i) - width / 2, y: sy(high), width, height: Math.max(sy(low) - sy(high), 1) };
            add(plot, "rect", { class: `livt-bar ${styles[i]}`, ...place });
            if (i < 4) add(plot, "path", { class: "livt-threshold", d: `M${sx(i) + width / 2} ${sy(to)}H${sx(i + 1) - width / 2}` });
          });
        },
      });
    }
    return render;
  }

  // ---------------------------------------------------------------------------------------------------- start

  const KINDS = {
    "bias-explorer": biasExplorer,
    "profile-explorer": profileExplorer,
    "gradient-flow": gradientFlow,
    "mae-stepper": maeStepper,
    "count-explorer": countExplorer,
    proof: proofSteps,
    "anatomy-explorer": anatomyExplorer,
    "mass-explorer": massExplorer,
  };

  function start() {
    for (const root of document.querySelectorAll(".livt-interactive:not(.livt-live)")) {
      const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
      const render = KINDS[root.dataset.kind](root, data);
      keepRendered(root, render);
      root.classList.add("livt-live"); // the live figure stands for the image; where it fails, the image stays
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
