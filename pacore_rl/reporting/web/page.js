"use strict";
// The head of the page, its colours, and, where a server watches a run, its refreshing.

(() => {
  const { element, format, measured } = Charts;
  const RECENT = 5; // steps whose mean a card shows, beside that of the first ones
  const POLL_MILLISECONDS = 2000;
  const CARDS = [
    { label: "Reward", key: "reward/mean", panel: { share: false } },
    { label: "Synthesis right", key: "synthesis/accuracy", panel: { share: true } },
    { label: "Messages right", key: "messages/accuracy", panel: { share: true } },
    { label: "Right where all messages are wrong", key: "synthesis/emergent_correct", panel: { share: true } },
    { label: "Response tokens", key: "response/length_tokens", panel: {} },
    { label: "Log-prob gap", key: "policy/logprob_gap_mean", panel: {} },
    { label: "Tokens a second", key: "throughput/generated_tokens_per_second", panel: {} },
  ];

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  function clock(seconds) {
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }

  function card({ label, key, panel }, data) {
    const values = measured(data.series[key] ?? []);
    if (!values.length) return "";
    const early = mean(values.slice(0, RECENT)), late = mean(values.slice(-RECENT));
    return element("div", { class: "card", title: `${key}: mean of the last ${RECENT} steps, and of the first` },
      element("span", { class: "label" }, label), element("span", { class: "value" }, format(late, panel)),
      element("span", { class: "before" }, `from ${format(early, panel)}`));
  }

  function events(all) {
    const rows = [...all].reverse().map((one) => element("tr", {},
      element("th", { scope: "row" }, new Date(1000 * one.time_seconds).toISOString().slice(0, 19).replace("T", " ")),
      element("td", {}, one.event.replaceAll("_", " ")), element("td", {}, one.step < 0 ? "" : `after step ${one.step}`),
      element("td", { class: "details" }, one.details)));
    return element("table", {}, element("tbody", {}, ...rows));
  }

  function draw(data) {
    document.getElementById("name").textContent = data.name;
    const mean = data.steps_a_point > 1 ? `; each point is the mean of ${data.steps_a_point} steps` : "";
    document.getElementById("status").textContent = `${data.num_steps.toLocaleString("en")} steps in ${clock(data.seconds)}${mean}`;
    document.getElementById("facts").replaceChildren(...data.facts.map(([label, value]) =>
      element("div", {}, element("dt", {}, label), element("dd", {}, value))));
    document.getElementById("cards").replaceChildren(...CARDS.map((one) => card(one, data)));
    document.getElementById("events").hidden = !data.events.length;
    document.getElementById("event-list").replaceChildren(events(data.events));
    document.getElementById("recipe").hidden = !data.recipe;
    document.getElementById("recipe-text").textContent = data.recipe;
    Charts.draw(document.getElementById("charts"), data);
    Samples.draw(data);
  }

  function colours() {
    const button = document.getElementById("theme");
    const names = ["auto", "light", "dark"];
    let at = 0;
    const apply = () => {
      document.documentElement.dataset.theme = names[at];
      button.textContent = names[at][0].toUpperCase() + names[at].slice(1);
      button.setAttribute("aria-label", `Colours: ${at === 0 ? "as the system has them" : names[at]}`);
    };
    button.addEventListener("click", () => { at = (at + 1) % names.length; apply(); Charts.repaint(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", Charts.repaint);
    apply();
  }

  async function watch() {
    let version = null;
    for (;;) {
      await new Promise((resume) => setTimeout(resume, POLL_MILLISECONDS));
      let answer;
      try {
        answer = await fetch("data.json", { headers: version ? { "If-None-Match": version } : {}, cache: "no-store" });
      } catch {
        document.body.dataset.connection = "lost"; // the command was stopped; it may be started again
        continue;
      }
      document.body.dataset.connection = "live";
      if (answer.status === 200) {
        version = answer.headers.get("ETag");
        draw(await answer.json());
      }
    }
  }

  colours();
  draw(JSON.parse(document.getElementById("data").textContent));
  document.body.dataset.ready = "true";
  if (document.body.dataset.live === "true") watch();
})();
