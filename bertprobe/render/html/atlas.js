// What the page shows: an overview, lists, search and cards, each under an address of its own behind the #.
(() => {
  const { about } = atlas;
  const AROUND = 12; // tokens on either side of an example
  const STEP = 100; // rows that a list grows by
  const RESULTS = 20; // and results of a search, which are drawn at every key
  const box = document.getElementById("search-box");
  const overview = document.getElementById("overview");
  const view = document.getElementById("view");
  const status = document.getElementById("status");
  const page = document.title;

  // ---------------------------------------------------------------------------------------------- elements

  // An element with attributes and what is in it: texts become text, never markup.
  function element(tag, attributes = {}, ...inside) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(name, value);
    made.append(...inside.flat().filter((one) => one !== undefined && one !== ""));
    return made;
  }
  const link = (href, text, attributes = {}) => element("a", { href, "data-item": "", ...attributes }, text);
  const cut = (text, most = 40) => (text.length > most ? `${text.slice(0, most)}…` : text);

  // A number with four digits, or an exponent, as the command has it.
  function digits(value) {
    if (!Number.isFinite(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    const sign = value < 0 ? "-" : "";
    if (size >= 1e6 || size < 1e-4) {
      const [front, back] = size.toExponential(2).split("e");
      return `${sign}${front}e${back[0]}${back.slice(1).padStart(2, "0")}`;
    }
    if (size >= 1000) return sign + Math.round(size).toLocaleString("en-US");
    if (size >= 1) return sign + size.toFixed(3 - Math.floor(Math.log10(size)));
    return sign + (size >= 0.01 ? size.toFixed(4) : size.toPrecision(3));
  }
  const share = (value) => `${(100 * value).toFixed(1)} %`;
  const many = (count, noun) => `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;

  const COLUMNS = [
    ["selectivity", "selective", digits], ["max", "max", digits], ["mean", "mean", digits], ["std", "std", digits],
    ["min", "min", digits], ["above_zero", "> 0", share], ["before_above_zero", "> 0 before", share],
    ...about.thresholds.map((threshold, i) => [`over.${i}`, `> ${threshold}`, share]),
  ];
  const LISTED = ["selectivity", "max", "mean", "std", "above_zero"];

  // ---------------------------------------------------------------------------------------------- lists

  // A table of neurons that grows as it is read; `shown` are their numbers in order.
  function neuronTable(shown, sort, address, caption) {
    const columns = COLUMNS.filter(([name]) => LISTED.includes(name));
    const heads = columns.map(([name, title]) => {
      const down = sort === name, up = sort === `-${name}`;
      const told = { class: "n", scope: "col", "aria-sort": down ? "descending" : up ? "ascending" : undefined };
      const attributes = address && { href: `${address}/${down ? "-" : ""}${name}` };
      const inside = address ? element("a", attributes, title, down ? " ↓" : up ? " ↑" : "") : title;
      return element("th", { ...told, "data-column": name }, inside);
    });
    const body = element("tbody");
    const row = (index) =>
      element(
        "tr", {},
        element("th", { scope: "row" }, link(`#${atlas.name(index)}`, atlas.name(index))),
        element("td", { class: "words", dir: "auto" }, preview(index)),
        columns.map(([name, , words]) =>
          element("td", { class: "n", "data-column": name }, words(numbers[name].array[index]))),
      );
    const made = element(
      "table", { class: "neurons", "data-sort": sort.replace("-", "") }, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "neuron"),
        element("th", { scope: "col" }, "strongest on"), heads)),
      body,
    );
    return growing(made, body, shown, row);
  }

  function growing(outer, inner, shown, row, step = STEP) {
    const more = element("button", { type: "button", class: "more" });
    let done = 0;
    const grow = () => {
      const next = shown.slice(done, done + step);
      inner.append(...next.map(row));
      done += next.length;
      more.hidden = done >= shown.length;
      more.textContent = `Show more of ${shown.length.toLocaleString("en-US")}`;
    };
    more.addEventListener("click", () => {
      const last = inner.lastElementChild;
      grow();
      (last?.nextElementSibling?.querySelector("a") ?? last?.nextElementSibling)?.focus();
    });
    grow();
    return [outer, more];
  }

  // The words of a neuron's strongest tokens; those that are looked for come first and are marked.
  function preview(index, wanted = [], words = atlas.wordsOf(index)) {
    const fits = (word) => wanted.some((part) => word.toLowerCase().includes(part));
    const first = [...words.filter(fits), ...words.filter((word) => !fits(word))].slice(0, 8);
    return first.flatMap((word, i) => [i ? " · " : "", fits(word) ? element("mark", {}, cut(word, 24)) : cut(word, 24)]);
  }
  let numbers = null;

  function sorted(indices, sort) {
    const values = numbers[sort.replace("-", "")].array;
    const sign = sort.startsWith("-") ? 1 : -1;
    return indices.sort((a, b) => sign * (values[a] - values[b]) || a - b);
  }

  const range = (first, count) => Array.from({ length: count }, (_, i) => first + i);

  function showList(layer, sort) {
    const indices = layer ? range(layer.first, layer.neurons) : range(0, atlas.neurons);
    const address = layer ? `#layer/${layer.number}` : "#all";
    const title = layer ? `Layer ${layer.number}` : "All neurons";
    heading(title);
    const caption = `${many(indices.length, "neuron")}; a column's head sorts by it`;
    view.append(...neuronTable(sorted(indices, sort), sort, address, caption));
    tell(`${title}: ${many(indices.length, "neuron")}`);
  }

  function showSelective() {
    const place = document.getElementById("selective");
    if (place.childElementCount) return;
    const first = sorted(range(0, atlas.neurons), "selectivity").slice(0, 20);
    const [list] = neuronTable(first, "selectivity", "", "How many deviations their strongest tokens lie above their mean");
    place.append(element("h2", {}, "The most selective neurons"), list,
      element("p", {}, link("#all/selectivity", `All ${many(atlas.neurons, "neuron")}`)));
  }

  // ---------------------------------------------------------------------------------------------- search

  let active = -1; // which of the results Enter opens

  function showSearch(text) {
    const found = atlas.search(text);
    const total = found.strongest.order.length + found.promoted.order.length;
    const wanted = text.toLowerCase().split(/\s+/u).map((part) => part.replace(/^##/u, "")).filter(Boolean);
    active = -1;
    const results = element("div", { id: "results", role: "listbox", "aria-label": "Neurons" });
    if (found.neuron >= 0) results.append(option(found.neuron, "the neuron of that name", []));
    const groups = [
      ["strongest", found.strongest.order, "Strongest on it", (index) =>
        `${found.strongest.count[index]} of ${kept(index)}, up to ${digits(found.strongest.value[index])}`, atlas.wordsOf],
      ["promoted", found.promoted.order, "Promote it", (index) =>
        `raised by ${digits(found.promoted.value[index])}`, atlas.promotedBy],
    ];
    const buttons = [];
    for (const [name, rows, title, words, entries] of groups) {
      if (!rows.length) continue;
      const group = element("div", { role: "group", "aria-labelledby": `group-${name}` },
        element("h2", { id: `group-${name}`, role: "presentation" }, `${title} `, element("small", {}, many(rows.length, "neuron"))));
      const inner = element("div", { role: "presentation" });
      const [, more] = growing(group, inner, rows, (index) => option(index, words(index), wanted, entries(index)), RESULTS);
      group.append(inner);
      results.append(group);
      more.textContent = `${title}: show more`;
      buttons.push(more);
      group.after(more);
    }
    view.replaceChildren();
    if (found.words.length) {
      const words = found.words.map(([word, count]) =>
        element("li", {}, link(address(word), cut(word), { title: many(count, "neuron"), dir: "auto" })));
      view.append(element("ul", { class: "chips", "aria-label": "Words that go on so" }, words));
    }
    view.append(results, ...buttons);
    const told = text.trim()
      ? total || found.neuron >= 0
        ? `${many(found.strongest.order.length, "neuron")} strongest on it, ${many(found.promoted.order.length, "neuron")} promote it`
        : /^\d+\.\d+$/.test(text.trim())
          ? `There is no neuron ${text.trim()}: layers are ${about.layers.map((one) => one.number).join(", ")}`
          : "No neuron has it among its strongest tokens, or the words it promotes"
      : "Type a word, a piece of one, or a neuron such as 3.224";
    tell(told, true);
    box.setAttribute("aria-expanded", String(total > 0 || found.neuron >= 0));
    box.setAttribute("aria-controls", "results");
    box.removeAttribute("aria-activedescendant");
    document.title = `${text.trim() || "Search"} – ${page}`;
  }

  const address = (word) => `#search/${encodeURIComponent(word)}`;
  const kept = (index) => {
    const { array, width } = ready.words;
    return array.subarray(index * width, (index + 1) * width).filter((number) => number >= 0).length;
  };

  let options = 0;
  function option(index, words, wanted, entries) {
    const name = atlas.name(index);
    return element(
      "a", { role: "option", id: `option-${options++}`, "aria-selected": "false", href: `#${name}`, "data-item": "" },
      element("b", {}, name), element("span", { class: "words", dir: "auto" }, preview(index, wanted, entries)),
      element("span", { class: "soft" }, words),
    );
  }

  function choose(step) {
    const found = [...view.querySelectorAll("[role=option]")];
    if (!found.length) return;
    found[active]?.setAttribute("aria-selected", "false");
    active = Math.min(Math.max(active + step, 0), found.length - 1);
    found[active].setAttribute("aria-selected", "true");
    found[active].scrollIntoView({ block: "nearest" });
    box.setAttribute("aria-activedescendant", found[active].id);
  }

  // ---------------------------------------------------------------------------------------------- a card

  async function showCard(index, turn) {
    const layer = about.layers.findLast((one) => one.first <= index);
    const data = await atlas.layerData(layer);
    if (turn !== current) return;
    const number = index - layer.first;
    const name = atlas.name(index);
    const row = (array) => array.array.subarray(number * array.width, (number + 1) * array.width);
    const rowOf = (array) => array.array.subarray(index * array.width, (index + 1) * array.width);
    heading(`Neuron ${name}`, leaf(index));
    tell(`Neuron ${name}`);

    const largest = Math.max(Math.abs(numbers.max.array[index]), Math.abs(numbers.min.array[index])) || 1;
    const told = COLUMNS.map(([key, title, words]) => [title, words(numbers[key].array[index])]);
    view.append(element("dl", { class: "numbers" }, told.map(([title, value]) =>
      element("div", {}, element("dt", {}, title), element("dd", {}, value)))));

    const examples = (places, values, of = largest, before = () => undefined) =>
      element("ol", { class: "examples" }, [...places].map((place, i) =>
        place < 0 ? "" : example(data, place, values[i], of, before(i))));
    const block = (title, words, ...inside) =>
      element("section", { class: "block" }, element("h2", {}, title), words ? element("p", { class: "soft" }, words) : "", ...inside);

    const deciles = row(data.deciles);
    const tenths = row(data.tenths), tenthValues = row(data["tenths.values"]);
    const left = element("div", {},
      block("Strongest tokens", "", examples(row(data.strongest), rowOf(ready.values))),
      block("A tenth of its activations each", "and a token drawn at random from it",
        element("ol", { class: "examples tenths" }, range(0, 10).map((i) => tenths[i] < 0
          ? element("li", { class: "none" }, element("span", { class: "limit" }, `up to ${digits(deciles[i + 1])}`), element("span", { class: "soft" }, "none was drawn"))
          : example(data, tenths[i], tenthValues[i], largest, `up to ${digits(deciles[i + 1])}`)))),
      block("Tokens drawn at random", "the same for all neurons", examples(data.random.array, row(data["random.values"]))),
      block("Most negative before the activation", "", examples(row(data.negative), row(data["negative.values"]), 0)),
    );
    const right = element("div", { class: "aside" });
    if (layer.promotes) {
      right.append(block("Its output column promotes", about.reader, words(rowOf(ready.promoted), rowOf(ready["promoted.values"]))),
        block("and suppresses", "", words(rowOf(ready.suppressed), rowOf(ready["suppressed.values"]))));
    }
    if (layer.nearest) {
      right.append(block("Nearest words to its input row", "by cosine: not what it fires on",
        words(row(data.nearest), row(data["nearest.values"]))));
    }
    right.append(neighbours(row(data.neighbours), row(data.shared), row(data.correlations), block));
    right.append(block("Its mean by position", "", positions(data, number)));
    view.append(element("div", { class: "card" }, left, right));
  }

  function leaf(index) {
    const to = (other, arrow, key) => other < 0 || other >= atlas.neurons ? "" :
      element("a", { href: `#${atlas.name(other)}`, "data-leaf": key, "aria-label": `Neuron ${atlas.name(other)}` }, arrow);
    return element("span", { class: "leaf" }, to(index - 1, "←", "ArrowLeft"), to(index + 1, "→", "ArrowRight"));
  }

  // A token in its text: its value, a bar as long as it is large, and the words around.
  function example(data, place, value, largest, limit) {
    let low = 0, high = data.starts.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (data.starts[middle] <= place) low = middle;
      else high = middle;
    }
    const first = Math.max(place - AROUND, data.starts[low]);
    const stop = Math.min(place + AROUND + 1, data.starts[low + 1]);
    const bar = element("span", { class: value < 0 ? "bar below" : "bar", "aria-hidden": "true" });
    bar.style.setProperty("--size", largest ? Math.min(Math.abs(value) / largest, 1).toFixed(3) : 0);
    const source = `${about.files[data.files.array[low]]}, row ${(data.rows[low] + 1).toLocaleString("en-US")}`;
    return element("li", {}, limit ? element("span", { class: "limit" }, limit) : "",
      element("span", { class: "value" }, digits(value)), largest ? bar : "",
      element("span", { class: "text", dir: "auto", title: source }, spoken(data.ids.array.subarray(first, stop), place - first)));
  }

  // Pieces as one reads them, the one at `place` marked.
  function spoken(ids, place) {
    const found = [];
    let text = "";
    ids.forEach((id, i) => {
      const piece = ready.tables.pieces[id];
      const goesOn = piece.startsWith("##");
      const bare = (goesOn ? piece.slice(2) : piece).replace(/[▁Ġ]/gu, " ");
      const isMarked = /^[▁Ġ]/u.test(piece);
      if (!goesOn && !(ready.isMarked && !isMarked) && i) text += " ";
      const shown = cut(ready.isMarked ? bare.trim() : bare, 80);
      if (i === place) {
        found.push(text, element("mark", {}, shown || piece));
        text = "";
      } else text += shown;
    });
    return [...found, text];
  }

  function words(ids, values) {
    return element("ul", { class: "entries" }, [...ids].map((id, i) => {
      if (id < 0) return "";
      const piece = ready.tables.pieces[id];
      return element("li", {}, link(address(piece), cut(piece), { dir: "auto" }), element("span", { class: "value" }, digits(values[i])));
    }));
  }

  function neighbours(found, shared, correlations, block) {
    const rows = [...found].map((other, i) => other < 0 ? "" : element("li", {}, link(`#${atlas.name(other)}`, atlas.name(other)),
      element("span", { class: "words", dir: "auto" }, preview(other)),
      element("span", { class: "soft" }, shared[i] ? `${shared[i]} shared` : "", element("span", { class: "value" }, digits(correlations[i])))));
    return block("Neurons that go with it", "strongest tokens shared, and correlation over tokens drawn",
      found.some((other) => other >= 0) ? element("ul", { class: "entries neighbours" }, rows) : element("p", {}, "None."));
  }

  function positions(data, number) {
    const means = data.means.array.subarray(number * data.means.width, (number + 1) * data.means.width);
    const largest = Math.max(...means.map(Math.abs)) || 1;
    const seen = [...data.positions.array].map((count, bucket) => [bucket, count]).filter(([, count]) => count);
    return element("ul", { class: "entries positions" }, seen.map(([bucket], i) => {
      const first = bucket ? 2 ** (bucket - 1) : 0, last = 2 ** bucket - 1;
      const bar = element("span", { class: means[i] < 0 ? "bar below" : "bar", "aria-hidden": "true" });
      bar.style.setProperty("--size", (Math.abs(means[i]) / largest).toFixed(3));
      const place = bucket < 2 ? `${first}` : bucket === data.positions.array.length - 1 ? `${first}–` : `${first}–${last}`;
      return element("li", {}, element("span", {}, place), bar, element("span", { class: "value" }, digits(means[i])));
    }));
  }

  // ---------------------------------------------------------------------------------------------- addresses

  let ready = null;
  let current = 0; // which call of `show` is the last
  let shown = null; // the address that is shown
  let depth = 0; // how many addresses were opened here: as far Escape goes back
  const scrolled = new Map(); // where each address was left: how far down, and on which link

  // Said to those who listen; also shown where nothing else on the page says it.
  function tell(words, isShown = false) {
    status.textContent = words;
    status.classList.toggle("unseen", !isShown);
  }

  function heading(title, beside) {
    view.replaceChildren(element("div", { class: "heading" }, element("h2", { tabindex: "-1", class: "title" }, title), beside ?? ""));
    document.title = `${title} – ${page}`;
  }

  function parsed(hash) {
    const [kind, ...rest] = hash.slice(1).split("/");
    const sorts = (name) => (COLUMNS.some(([key]) => key === (name ?? "").replace("-", "")) ? name : "selectivity");
    if (kind === "search") return { kind, text: decoded(rest.join("/")) };
    if (kind === "all") return { kind: "list", sort: sorts(rest[0]) };
    if (kind === "layer") {
      const layer = about.layers.find((one) => String(one.number) === rest[0]);
      return layer ? { kind: "list", layer, sort: sorts(rest[1]) } : { kind: "unknown", text: hash };
    }
    if (!kind) return { kind: "overview" };
    const index = atlas.indexOf(kind);
    return index >= 0 ? { kind: "card", index } : { kind: "unknown", text: hash };
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  }

  async function show(moved) {
    const turn = ++current;
    const hash = location.hash;
    if (hash === "#main") return; // the link that skips to the content
    const place = parsed(hash);
    if (!ready) {
      [numbers, ready] = await Promise.all([atlas.chunk("numbers"), atlas.ready()]);
      ready.isMarked = ready.tables.pieces.some((piece) => /^[▁Ġ]/u.test(piece));
    }
    if (turn !== current) return;
    shown = hash;
    const isOverview = place.kind === "overview" || place.kind === "unknown";
    overview.hidden = !isOverview;
    view.hidden = isOverview;
    box.setAttribute("aria-expanded", "false");
    box.removeAttribute("aria-activedescendant");
    if (place.kind !== "search") box.value = "";
    if (isOverview) {
      showSelective();
      document.title = page;
      tell(place.kind === "unknown" ? `There is no ${cut(decoded(place.text.slice(1)), 60)} here` : "", true);
    } else if (place.kind === "list") showList(place.layer, place.sort);
    else if (place.kind === "search") {
      if (box.value.trim() !== place.text.trim()) box.value = place.text;
      showSearch(place.text);
    } else await showCard(place.index, turn);
    if (turn !== current) return;
    for (const one of document.querySelectorAll("nav a")) {
      const here = one.getAttribute("href") === `#${hash.slice(1).split("/").slice(0, hash.startsWith("#layer") ? 2 : 1).join("/")}`;
      if (here) one.setAttribute("aria-current", "page");
      else one.removeAttribute("aria-current");
    }
    if (moved) arrive(hash, place);
    if (!document.documentElement.dataset.drawn) performance.mark("drawn");
    document.documentElement.dataset.drawn = "yes";
    document.documentElement.dataset.shown = hash;
  }

  // After going somewhere: back at the link that was left from, else at the top, at the title.
  function arrive(hash, place) {
    if (document.activeElement === box && place.kind === "search") return;
    const left = wentBack && scrolled.get(hash);
    const title = view.hidden ? document.getElementById("main") : view.querySelector(".title, [data-item]");
    const item = left && [...document.querySelectorAll("main [data-item]")].find((one) => one.getAttribute("href") === left.item && one.offsetParent);
    (item || title)?.focus({ preventScroll: true });
    scrollTo(0, left ? left.top : 0);
    wentBack = false;
  }

  const leave = () => {
    const item = document.activeElement?.closest?.("[data-item]");
    scrolled.set(shown ?? "", { top: scrollY, item: item?.getAttribute("href") });
  };

  let wentBack = false;
  let opening = false; // whether this page itself went to a new address
  function open(hash) {
    if (hash === location.hash) return;
    leave();
    opening = true;
    location.hash = hash;
  }
  document.addEventListener("click", (event) => {
    const one = event.target.closest?.("a[href^='#']");
    if (!one || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    if (one.getAttribute("href") === location.hash || one.classList.contains("skip")) return;
    event.preventDefault();
    one.focus();
    open(one.getAttribute("href"));
  });
  addEventListener("hashchange", () => {
    if (opening) depth++;
    else {
      wentBack = true;
      depth = Math.max(depth - 1, 0);
    }
    opening = false;
    show(true);
  });
  history.scrollRestoration = "manual";

  box.addEventListener("input", () => {
    const hash = box.value ? address(box.value) : "#search/";
    if (parsed(location.hash).kind === "search") {
      history.replaceState(null, "", hash);
      show(false);
    } else open(hash);
  });

  // ---------------------------------------------------------------------------------------------- keys

  function back() {
    if (depth) history.back();
    else if (location.hash.length > 1) open("#");
  }

  function move(step) {
    const items = [...document.querySelectorAll("main [data-item]")].filter((one) => one.offsetParent);
    const at = items.indexOf(document.activeElement);
    let next = items[at < 0 ? (step > 0 ? 0 : items.length - 1) : at + step];
    const more = [...view.querySelectorAll(".more:not([hidden])")];
    if (!next && step > 0 && more.length) return more[0].click();
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const typing = event.target === box;
    const key = event.key;
    if (key === "Escape") {
      if (typing && parsed(location.hash).kind !== "search") box.blur();
      else back();
    } else if (typing) {
      if (key === "ArrowDown" || key === "ArrowUp") choose(key === "ArrowDown" ? 1 : -1);
      else if (key === "Enter") {
        const found = view.querySelector("[role=option][aria-selected=true]") ?? view.querySelector("[role=option]");
        if (found && !view.hidden) {
          box.blur();
          open(found.getAttribute("href"));
        }
      } else return;
    } else if (key === "/") {
      box.focus();
      box.select();
    } else if (event.target.closest("button, summary") && (key === "Enter" || key === " ")) return;
    else if (key === "ArrowDown" || key === "j") move(1);
    else if (key === "ArrowUp" || key === "k") move(-1);
    else if (key === "ArrowLeft" || key === "ArrowRight") {
      const to = view.hidden ? null : view.querySelector(`[data-leaf=${key}]`);
      if (!to) return;
      open(to.getAttribute("href"));
    } else return;
    event.preventDefault();
  });

  if (typeof DecompressionStream === "undefined") {
    tell("This browser cannot unpack the page: take Chrome 80, Firefox 113, Safari 16.4 or later", true);
  } else show(false);
})();
