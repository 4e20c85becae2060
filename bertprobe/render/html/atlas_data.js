// What the page knows: chunks of arrays, unpacked when they are asked for, and what is looked up in them.
const atlas = (() => {
  const KINDS = {
    u1: Uint8Array, i1: Int8Array, u2: Uint16Array, i2: Int16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array,
  };
  const about = JSON.parse(document.getElementById("atlas").textContent);
  const neurons = about.layers.reduce((sum, layer) => sum + layer.neurons, 0);
  const whole = document.readyState === "loading"
    ? new Promise((done) => addEventListener("DOMContentLoaded", done, { once: true }))
    : Promise.resolve();

  async function inflated(text) {
    const packed = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // The first bytes of all numbers lie together, then the second ones: back into numbers.
  function joined(planes, size, count) {
    if (size === 1) return planes.slice().buffer;
    const bytes = new Uint8Array(size * count);
    for (let plane = 0; plane < size; plane++) {
      const start = plane * count;
      for (let i = 0, at = plane; i < count; i++, at += size) bytes[at] = planes[start + i];
    }
    return bytes.buffer;
  }

  async function unpacked(text, directory) {
    const bytes = await inflated(text);
    const found = {};
    let start = 0;
    for (const [name, kind, shape] of directory) {
      const count = shape.reduce((product, n) => product * n, 1);
      const size = KINDS[kind].BYTES_PER_ELEMENT;
      const array = new KINDS[kind](joined(bytes.subarray(start, start + size * count), size, count));
      found[name] = { array, width: shape.length > 1 ? shape[1] : 1 };
      start += size * count;
    }
    return found;
  }

  const once = new Map();
  function cached(name, make) {
    if (!once.has(name)) once.set(name, make());
    return once.get(name);
  }
  const chunk = (name) =>
    cached(name, () => unpacked(document.getElementById(name).textContent, about.chunks[name]));

  // A layer's arrays, with where each of its stretches of text begins.
  const layerData = (layer) =>
    cached(`layer-${layer.number}`, async () => {
      let text = document.getElementById(`layer-${layer.number}`);
      if (!text?.nextSibling) {
        await whole; // the page is still being read
        text = document.getElementById(`layer-${layer.number}`);
      }
      const directory = JSON.parse(document.getElementById(`layer-${layer.number}-arrays`).textContent);
      const data = await unpacked(text.textContent, directory);
      const lengths = data.lengths.array;
      const starts = new Uint32Array(lengths.length + 1);
      const rows = new Float64Array(lengths.length);
      for (let i = 0, row = 0; i < lengths.length; i++) {
        starts[i + 1] = starts[i] + lengths[i];
        rows[i] = row += data.rows.array[i];
      }
      return { ...data, starts, rows };
    });

  // Pieces and words, and both in lower case without the marks of a tokenizer.
  const bare = (piece) => piece.replace(/^(##|[▁Ġ])/u, "").toLowerCase();
  const strings = () =>
    cached("tables", async () => {
      const found = await chunk("strings");
      const lines = (name) => (found[name].array.length ? new TextDecoder().decode(found[name].array).split("\n") : []);
      const pieces = lines("pieces");
      const words = lines("words");
      return { pieces, words, barePieces: pieces.map(bare), bareWords: words.map((word) => word.toLowerCase()) };
    });

  let looked = null; // what is looked through for a word
  const ready = () => cached("ready", async () => (looked = { ...(await chunk("search")), tables: await strings() }));

  const name = (index) => {
    const layer = about.layers.findLast((one) => one.first <= index);
    return `${layer.number}.${index - layer.first}`;
  };
  function indexOf(text) {
    const found = /^(\d+)\.(\d+)$/.exec(text);
    const layer = found && about.layers.find((one) => one.number === Number(found[1]));
    return layer && Number(found[2]) < layer.neurons ? layer.first + Number(found[2]) : -1;
  }

  // ---------------------------------------------------------------------------------------------- search

  const EXACT = 3, BEGINS = 2, CONTAINS = 1; // how well a string fits what is looked for

  function fits(strings, wanted) {
    const found = new Uint8Array(strings.length + 1); // the last is that of no string, number -1
    for (let i = 0; i < strings.length; i++) {
      const at = strings[i].indexOf(wanted);
      if (at < 0) continue;
      if (at === 0) found[i] = strings[i].length === wanted.length ? EXACT : BEGINS;
      else if (wanted.length > 1) found[i] = CONTAINS;
    }
    return found;
  }

  // Of each neuron how well its entries fit at best, how many fit so well, and the value of the first, the largest.
  function counted(arrays, fit, values, width) {
    const best = new Uint8Array(neurons);
    const count = new Uint8Array(neurons);
    const value = new Float32Array(neurons);
    const [one, two] = arrays;
    const [fitOne, fitTwo] = fit;
    const none = fitOne.length - 1; // a negative number is that of no string
    const noneTwo = two ? fitTwo.length - 1 : 0;
    for (let i = 0, at = 0; i < neurons; i++) {
      for (let k = 0; k < width; k++, at++) {
        let how = fitOne[one[at] < 0 ? none : one[at]];
        if (two) {
          const other = fitTwo[two[at] < 0 ? noneTwo : two[at]];
          if (other > how) how = other;
        }
        if (how > best[i]) {
          best[i] = how;
          count[i] = 1;
          value[i] = values[at];
        } else if (how && how === best[i]) count[i]++;
      }
    }
    return { best, count, value };
  }

  // Numbers of the neurons of which every part of what is looked for fits, the best first: by the part that fits worst,
  // then by how many entries fit, then by the largest value.
  function ranked(parts) {
    const { best, count, value } = parts[0];
    for (const part of parts.slice(1)) {
      for (let i = 0; i < neurons; i++) {
        best[i] = Math.min(best[i], part.best[i]);
        count[i] += part.count[i];
        value[i] = Math.max(value[i], part.value[i]);
      }
    }
    const found = [];
    for (let i = 0; i < neurons; i++) if (best[i]) found.push(i);
    found.sort((a, b) => best[b] - best[a] || count[b] - count[a] || value[b] - value[a] || a - b);
    return { order: found, count, value };
  }

  const NOTHING = { order: [], count: [], value: [] };

  // Of what is typed: a neuron of that name, those strongest on the words, those that promote them, how words go on.
  function search(text) {
    const wanted = text.trim().toLowerCase().split(/\s+/u).filter(Boolean);
    const found = { neuron: indexOf(text.trim()), strongest: NOTHING, promoted: NOTHING, words: [] };
    if (!wanted.length || !looked) return found;
    const { words, pieces, values, promoted, tables } = looked;
    const inPieces = wanted.map((part) => fits(tables.barePieces, bare(part)));
    const inWords = wanted.map((part) => fits(tables.bareWords, part));
    const both = [words.array, pieces.array];
    found.strongest = ranked(inWords.map((fit, i) => counted(both, [fit, inPieces[i]], values.array, words.width)));
    if (promoted.width) {
      const raised = looked["promoted.values"].array;
      found.promoted = ranked(inPieces.map((fit) => counted([promoted.array], [fit], raised, promoted.width)));
    }
    found.words = completions(wanted.at(-1), inWords.at(-1));
    return found;
  }

  // Words that go on from what is typed, by how many neurons have them among their strongest.
  function completions(wanted, fit) {
    const { array, width } = looked.words;
    const counts = new Uint32Array(fit.length);
    const last = new Int32Array(fit.length).fill(-1); // the neuron that was counted last
    for (let i = 0, at = 0; i < neurons; i++) {
      for (let k = 0; k < width; k++, at++) {
        const word = array[at];
        if (word >= 0 && fit[word] >= BEGINS && last[word] !== i) {
          last[word] = i;
          counts[word]++;
        }
      }
    }
    const together = new Map(); // words that differ in their case alone are one
    counts.forEach((count, word) => {
      const text = count && looked.tables.bareWords[word];
      if (count && text !== wanted) together.set(text, (together.get(text) ?? 0) + count);
    });
    return [...together].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, 8);
  }

  // The words of a neuron's strongest tokens, each once.
  function wordsOf(index) {
    const { array, width } = looked.words;
    const found = array.subarray(index * width, (index + 1) * width);
    return [...new Set(found)].filter((number) => number >= 0).map((number) => looked.tables.words[number]);
  }

  // The pieces that its output column raises most.
  function promotedBy(index) {
    const { array, width } = looked.promoted;
    return [...array.subarray(index * width, (index + 1) * width)]
      .filter((number) => number >= 0)
      .map((number) => looked.tables.pieces[number]);
  }

  return { about, neurons, chunk, layerData, strings, ready, name, indexOf, search, wordsOf, promotedBy };
})();
