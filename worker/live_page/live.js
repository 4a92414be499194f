// The posts as they come. All that a stranger wrote goes into text nodes, and nowhere else.
"use strict";
(() => {
  const MAX_POSTS = 100; // on the page, and as many that wait while it is paused
  const TELL_MS = 10000; // between two times that a screen reader is told of new posts
  const AGAIN_MS = 8000; // after a refusal, which a browser doesn't try again by itself
  const SIDE = 7;

  const at = (id) => document.getElementById(id);
  const list = at("posts");
  const posts = new Map(); // id -> { node, words, types, tagged, spoken }
  const chosen = new Set(); // types to be shown; none: all
  const numbers = new Intl.NumberFormat("en");
  let palette = [];
  let held = new Map(); // the same, of posts that wait
  let isPaused = false;
  let needle = "";
  let news = 0; // posts that a screen reader hasn't been told of
  let latest = null; // the last of them, as it would be said
  let spoken = null; // the id of the post that was said last

  function make(tag, className, ...children) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children);
    return node;
  }

  function tell(words, id = null) {
    at("told").textContent = words;
    spoken = id;
  }

  // ---- a post ----

  function wordsOf(post) {
    const line = make("p", "words");
    line.dir = "auto";
    if (/^[a-z]{2,3}(-[a-z0-9]{2,8})*$/i.test(post.lang || "")) line.lang = post.lang;
    for (const piece of post.pieces) line.append(piece.type ? nameOf(piece) : piece.text);
    if (!line.textContent.trim()) {
      line.classList.add("none");
      line.textContent = "no words";
    }
    return line;
  }

  function nameOf(piece) {
    const label = make("small", "", `${piece.type} ${Math.round(100 * piece.confidence)}%`);
    const name = make("mark", "", piece.text, "\u00a0", label);
    name.dataset.type = piece.type;
    return name;
  }

  function aboutOf(post) {
    const moment = new Date(post.tagged_at);
    const time = make("time", "", moment.toLocaleTimeString("en-GB"));
    time.dateTime = post.tagged_at;
    const line = make("p", "about", time, make("span", "", make("bdi", "", post.name)));
    if (post.fate) {
      const status = post.status === "none" ? post.fate : `${post.fate} (${post.status})`;
      line.append(make("span", "fate", status));
    }
    return line;
  }

  function heatOf(levels, size) {
    const grid = make("canvas");
    grid.width = grid.height = SIDE;
    const cells = new ImageData(SIDE, SIDE);
    levels.forEach((level, place) => cells.data.set([...palette[level], 255], 4 * place));
    grid.getContext("2d").putImageData(cells, 0, 0);
    if (size === SIDE) return grid;
    const spread = make("canvas");
    spread.width = spread.height = size;
    const context = spread.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(grid, 0, 0, size, size);
    return spread;
  }

  function gridOf(post) {
    const grid = make("div", "picture grid", heatOf(post.heat, SIDE));
    grid.setAttribute("role", "img");
    grid.setAttribute("aria-label", `Attention over the picture: ${post.gaze}`);
    const words = "where the tagger looked: the brighter, the more; the picture itself isn't kept";
    return make("figure", "", grid, make("figcaption", "", words));
  }

  function pictureOf(post, hasPicture) {
    if (post.status !== "used") return null;
    if (!hasPicture) return post.heat ? gridOf(post) : make("figure", "", make("figcaption", "", "the picture was used, and isn't kept"));
    const image = make("img");
    image.width = image.height = 224;
    image.alt = "";
    image.decoding = "async";
    const frame = make(post.heat ? "button" : "div", "picture", image);
    const figure = make("figure", "", frame);
    if (post.heat) {
      frame.type = "button";
      frame.append(heatOf(post.heat, 224));
      frame.setAttribute("aria-pressed", "true");
      frame.setAttribute("aria-label", `Attention over the picture: ${post.gaze}`);
      frame.title = "With or without the attention";
    } else {
      image.alt = "The picture that the tagger looked at";
    }
    // It may be gone by now: with its post, or for newer ones.
    image.addEventListener("error", () => figure.replaceWith(post.heat ? gridOf(post) : ""), { once: true });
    image.src = `/live/pictures/${encodeURIComponent(post.digest)}`;
    return figure;
  }

  function entryOf({ post, has_picture: hasPicture }) {
    const node = make("li", "post", make("div", "", wordsOf(post), aboutOf(post)));
    const figure = pictureOf(post, hasPicture);
    if (figure) {
      node.classList.add("pictured");
      node.append(figure);
    }
    const words = post.pieces.map((piece) => piece.text).join("");
    const types = new Set(post.pieces.map((piece) => piece.type).filter(Boolean));
    types.forEach(offer);
    at("checkpoint").textContent = `checkpoint ${post.checkpoint}, ${post.variant}`;
    const names = post.pieces.filter((piece) => piece.type).map((piece) => `${piece.type} ${piece.text}`);
    return { node, words, types, tagged: post.tagged_at, spoken: [words.slice(0, 160), ...names.slice(0, 5)].join(". ") };
  }

  // ---- which posts are shown ----

  function matches(entry) {
    const hasType = chosen.size === 0 || [...chosen].some((type) => entry.types.has(type));
    return hasType && entry.words.toLowerCase().includes(needle);
  }

  function count() {
    const shown = [...posts.values()].filter((entry) => !entry.node.hidden).length;
    const isFiltered = needle !== "" || chosen.size > 0;
    const all = posts.size === 1 ? "1 post" : `the last ${posts.size} posts`;
    at("shown").textContent = isFiltered ? `${shown} of ${posts.size} posts match` : posts.size ? all : "";
    at("empty").hidden = shown > 0;
    at("empty").textContent = posts.size ? "No post here matches the filter." : "Waiting for posts.";
    at("pause").textContent = !isPaused ? "Pause" : held.size ? `Resume (${held.size})` : "Resume";
    return shown;
  }

  function filter() {
    posts.forEach((entry) => (entry.node.hidden = !matches(entry)));
    tell(`${count()} of ${posts.size} posts are shown.`);
  }

  function offer(type) {
    if ([...at("types").querySelectorAll("input")].some((box) => box.value === type)) return;
    const box = make("input");
    box.type = "checkbox";
    box.value = type;
    const chip = make("label", "chip", box, make("span", "", type));
    chip.dataset.type = type;
    at("types").append(chip);
  }

  // ---- posts come and go ----

  function add(id, entry) {
    remove(id);
    posts.set(id, entry);
    entry.node.hidden = !matches(entry);
    entry.node.classList.add("new");
    list.prepend(entry.node);
    if (posts.size > MAX_POSTS) remove(posts.keys().next().value);
    if (!entry.node.hidden) {
      news += 1;
      latest = { id, words: entry.spoken };
    }
  }

  function remove(id) {
    // Nor is it to be heard any more.
    if (spoken === id) tell("");
    if (latest && latest.id === id) latest = null;
    const entry = posts.get(id);
    if (!entry) return;
    // Who stands on a post that goes stays in the list.
    if (entry.node.contains(document.activeElement)) list.focus({ preventScroll: true });
    entry.node.remove();
    posts.delete(id);
  }

  function hold(id, entry) {
    held.delete(id);
    held.set(id, entry);
    if (held.size > MAX_POSTS) held.delete(held.keys().next().value);
  }

  function pause(isToPause) {
    isPaused = isToPause;
    const num = held.size;
    if (!isPaused) {
      held.forEach((entry, id) => add(id, entry));
      held = new Map();
    }
    count();
    tell(isPaused ? "Paused." : `Going on, with ${num} new ${num === 1 ? "post" : "posts"}.`);
  }

  setInterval(() => {
    if (news && latest) tell(`${news} new ${news === 1 ? "post" : "posts"}. The latest: ${latest.words}`, latest.id);
    news = 0;
    latest = null;
  }, TELL_MS);

  // ---- the stream ----

  function connected(state, words) {
    if (at("connection").dataset.state !== state) tell(words);
    // What was true a moment ago isn't shown as true.
    if (state === "lost") document.querySelectorAll(".figures dd").forEach((figure) => (figure.textContent = "–"));
    at("connection").dataset.state = state;
    at("connection").textContent = words;
  }

  const answers = {
    hello({ ids, types, palette: colours }) {
      palette = colours;
      types.forEach(offer);
      // What was taken back while nobody listened is not known: only what still stands at the worker stays.
      const standing = new Set(ids);
      for (const id of [...posts.keys()]) if (!standing.has(id)) remove(id);
      for (const id of [...held.keys()]) if (!standing.has(id)) held.delete(id);
      connected("open", "live");
      count();
    },
    post(message) {
      const id = message.post.id;
      if (posts.has(id) && posts.get(id).tagged === message.post.tagged_at) return;
      const entry = entryOf(message);
      if (isPaused) hold(id, entry);
      else add(id, entry);
      count();
    },
    gone(ids) {
      for (const id of ids) {
        remove(id);
        held.delete(id);
      }
      count();
    },
    rates({ skipped, ...figures }) {
      for (const [name, value] of Object.entries(figures)) at(name).textContent = value === null ? "–" : numbers.format(value);
      at("skipped").textContent = skipped ? `${numbers.format(skipped)} skipped: more than can be read` : "";
    },
  };

  function listen() {
    const stream = new EventSource("/live/events");
    for (const [name, answer] of Object.entries(answers)) {
      stream.addEventListener(name, (event) => answer(JSON.parse(event.data)));
    }
    stream.addEventListener("error", () => {
      if (stream.readyState !== EventSource.CLOSED) return connected("lost", "connection lost; trying again");
      connected("lost", "refused: signed out, stopping, or too many pages; trying again");
      setTimeout(listen, AGAIN_MS);
    });
  }

  at("pause").addEventListener("click", () => pause(!isPaused));
  at("tools").addEventListener("submit", (event) => event.preventDefault());
  at("text").addEventListener("input", (event) => {
    needle = event.target.value.trim().toLowerCase();
    filter();
  });
  at("types").addEventListener("change", (event) => {
    if (event.target.checked) chosen.add(event.target.value);
    else chosen.delete(event.target.value);
    filter();
  });
  list.addEventListener("click", (event) => {
    const picture = event.target.closest("button.picture");
    if (picture) picture.setAttribute("aria-pressed", String(picture.getAttribute("aria-pressed") !== "true"));
  });
  listen();
})();
