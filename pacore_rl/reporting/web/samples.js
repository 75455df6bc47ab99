"use strict";
// The sample browser: a list that filters narrow, and one problem with its messages and responses.

const Samples = (() => {
  const { element } = Charts;
  const PAGE = 200; // options drawn at first; "more" adds as many
  const INLINE_CHARS = 240; // a message up to this long is shown without a click

  const FILTERS = [
    { name: "emergent", label: "All messages wrong, answer right", test: (one) => one.emergent },
    { name: "truncated", label: "Truncated", test: (one) => one.truncated },
    { name: "changed", label: "Reward changed between steps", test: (one) => one.changed },
  ];
  const state = { on: new Set(), query: "", chosen: null, limit: PAGE };
  let all = [], shown = [], crossCheck = null;

  const key = (sample) => `${sample.step} ${sample.problem_id}`;

  function prepare(data) {
    crossCheck = new RegExp(data.cross_check, "gi");
    const visits = new Map();
    for (const sample of data.samples) {
      visits.set(sample.problem_id, [...(visits.get(sample.problem_id) ?? []), sample]);
    }
    all = data.samples.map((sample) => {
      const own = visits.get(sample.problem_id);
      const wrong = sample.messages.length > 0 && sample.messages.every((message) => !message.correct);
      return {
        sample, visits: own, key: key(sample),
        emergent: wrong && sample.responses.some((response) => response.correct),
        truncated: sample.responses.some((response) => response.finish === "truncated"),
        changed: own.some((other) => Math.abs(other.mean_reward - sample.mean_reward) > 1e-9),
        text: `${sample.problem_id} ${sample.source} ${sample.question}`.toLowerCase(),
      };
    }).reverse(); // newest first
  }

  const share = (num, of) => `${num} of ${of}`;
  const rightOf = (items) => items.filter((item) => item.correct).length;

  function badge(correct, outcome) {
    const failed = outcome.endsWith("_error");
    const kind = failed ? "unsure" : correct ? "right" : "wrong";
    const word = failed ? "? not scored" : correct ? "✓ right" : `✗ ${outcome === "scored" ? "wrong" : outcome}`;
    return element("span", { class: `badge ${kind}` }, word);
  }

  function marked(text) {
    const parts = [];
    let end = 0;
    for (const match of text.matchAll(crossCheck)) {
      parts.push(text.slice(end, match.index), element("mark", {}, match[0]));
      end = match.index + match[0].length;
    }
    return [...parts, text.slice(end)];
  }

  function filters(home) {
    const buttons = FILTERS.map((filter) => {
      const count = all.filter(filter.test).length;
      const button = element("button", { type: "button", "aria-pressed": String(state.on.has(filter.name)), "data-filter": filter.name },
        `${filter.label} `, element("b", {}, String(count)));
      button.addEventListener("click", () => {
        if (!state.on.delete(filter.name)) state.on.add(filter.name);
        button.setAttribute("aria-pressed", String(state.on.has(filter.name)));
        narrow();
      });
      return button;
    });
    const search = element("input", { type: "search", placeholder: "Search problems", "aria-label": "Search problems" });
    search.value = state.query;
    search.addEventListener("input", () => { state.query = search.value.toLowerCase(); narrow(); });
    home.replaceChildren(...buttons, search);
  }

  function narrow() {
    state.limit = PAGE;
    list();
    if (!shown.some((one) => one.key === state.chosen)) choose(shown[0]?.key ?? null);
  }

  function list() {
    const home = document.getElementById("sample-list");
    const wanted = FILTERS.filter((filter) => state.on.has(filter.name));
    shown = all.filter((one) => wanted.every((filter) => filter.test(one)) && one.text.includes(state.query));
    const options = shown.slice(0, state.limit).map((one, at) => {
      const { sample } = one;
      const made = element("div", { role: "option", id: `option-${at}`, "data-key": one.key, "aria-selected": String(one.key === state.chosen) },
        element("span", { class: "line" }, element("b", {}, `Step ${sample.step}`), element("span", {}, `${share(sample.num_correct, sample.num_responses)} right`)),
        element("span", { class: "question" }, sample.question.slice(0, 140)));
      made.style.setProperty("--share", sample.num_responses ? sample.num_correct / sample.num_responses : 0);
      made.addEventListener("click", () => choose(one.key));
      return made;
    });
    const rest = shown.length - options.length;
    if (rest > 0) {
      const more = element("button", { type: "button", class: "more" }, `Show more (${rest} left)`);
      more.addEventListener("click", () => { state.limit += PAGE; list(); });
      options.push(more);
    }
    home.replaceChildren(...(options.length ? options : [element("p", { class: "none" }, "No sample is like this.")]));
  }

  function choose(chosen) {
    state.chosen = chosen;
    const home = document.getElementById("sample-list");
    home.removeAttribute("aria-activedescendant");
    for (const option of home.querySelectorAll("[role=option]")) {
      const selected = option.dataset.key === chosen;
      option.setAttribute("aria-selected", String(selected));
      if (selected) {
        home.setAttribute("aria-activedescendant", option.id);
        const above = option.offsetTop - home.offsetTop;
        if (above < home.scrollTop) home.scrollTop = above;
        else if (above + option.offsetHeight > home.scrollTop + home.clientHeight) home.scrollTop = above + option.offsetHeight - home.clientHeight;
      }
    }
    const one = all.find((each) => each.key === chosen);
    document.getElementById("sample-detail").replaceChildren(...(one ? detail(one) : []));
  }

  function move(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    if (event.key === "Enter") {
      document.getElementById("sample-detail").focus();
    } else if (event.key in steps && shown.length) {
      event.preventDefault();
      const last = Math.min(shown.length, state.limit) - 1;
      const at = shown.findIndex((one) => one.key === state.chosen);
      choose(shown[Math.max(0, Math.min(last, at + steps[event.key]))].key);
    }
  }

  function message(one, at) {
    const head = [element("b", {}, `Reference ${at + 1}`), badge(one.correct, one.outcome), one.answer === null ? "" : element("span", { class: "answer" }, `answer ${one.answer}`)];
    const text = element("pre", {}, one.text);
    if (one.text.length <= INLINE_CHARS) return element("li", {}, element("div", { class: "line" }, ...head), text);
    return element("li", {}, element("details", {}, element("summary", {}, ...head), text));
  }

  function response(one, at) {
    const facts = [`reward ${one.reward.toFixed(2)}`, one.finish, `${one.num_tokens.toLocaleString("en")} tokens`, `weights ${one.weight_version}`];
    return element("li", {},
      element("div", { class: "line" }, element("b", {}, `Response ${at + 1}`), badge(one.correct, one.outcome),
        one.answer === null ? "" : element("span", { class: "answer" }, `answer ${one.answer}`),
        element("span", { class: "facts" }, facts.join(" · "))),
      element("pre", {}, ...marked(one.text)),
      one.reason ? element("p", { class: "reason" }, one.reason) : "");
  }

  function visits(one) {
    if (one.visits.length < 2) return "";
    return element("p", { class: "visits" }, "Mean reward by step: ", ...one.visits.map((visit) => {
      const button = element("button", { type: "button", "aria-pressed": String(visit === one.sample) }, `${visit.step}: ${visit.mean_reward.toFixed(2)}`);
      button.addEventListener("click", () => choose(key(visit)));
      return button;
    }));
  }

  function detail(one) {
    const { sample } = one;
    const dropped = sample.num_dropped_messages ? `, ${sample.num_dropped_messages} dropped` : "";
    return [
      element("header", {}, element("h3", {}, sample.problem_id),
        element("p", {}, `Step ${sample.step}${sample.source ? ` · ${sample.source}` : ""} · reward ${sample.reward_name} · ${share(rightOf(sample.messages), sample.messages.length)} messages right${dropped} · ${share(sample.num_correct, sample.num_responses)} responses right · mean reward ${sample.mean_reward.toFixed(2)}`),
        visits(one)),
      element("h4", {}, "Problem"), element("pre", { class: "question" }, sample.question),
      element("p", { class: "truth" }, "Ground truth: ", element("code", {}, sample.ground_truth)),
      element("h4", {}, `Messages (${sample.messages.length})`),
      sample.messages.length ? element("ol", { class: "messages" }, ...sample.messages.map(message)) : element("p", {}, "None: the model saw the plain problem."),
      element("h4", {}, `Responses (${sample.responses.length} of ${sample.num_responses})`),
      element("ol", { class: "responses" }, ...sample.responses.map(response)),
    ];
  }

  function draw(data) {
    prepare(data);
    const left = data.num_samples_left_out ? ` ${data.num_samples_left_out.toLocaleString("en")} more are in samples.jsonl.` : "";
    document.getElementById("samples-lead").textContent = all.length
      ? `${all.length.toLocaleString("en")} problems of ${new Set(all.map((one) => one.sample.step)).size} steps, chosen without regard to reward. Words that refer to a reference are marked.${left}`
      : "This run kept no samples (logging.sample_problems_per_step).";
    filters(document.getElementById("filters"));
    list();
    choose(all.some((one) => one.key === state.chosen) ? state.chosen : shown[0]?.key ?? null);
  }

  document.getElementById("sample-list").addEventListener("keydown", move);
  return { draw };
})();
