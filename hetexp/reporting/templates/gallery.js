// The gallery: samples to filter and to link to, all methods of one side by side, each to enlarge.
(() => {
  const { data } = paint;
  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const VERDICTS = new Map([[true, "correct"], [false, "wrong"], [null, "not known"]]);
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  // What is shown of a detection and of a question. `pictures` names the pictures of a sample, `draw` fills one canvas
  // and says in words what it shows.
  const detections = {
    name: "detections",
    entries: data.detection.flatMap((item) => item.detections.map((found, k) => ({
      item, found, k, image: item.image, box: found.box, hash: `#detection-${encodeURIComponent(item.id)}-${k}`,
      label: `${found.label} ${found.score.toFixed(2)}`,
      title: `Image ${item.id}: ${found.label}, probability ${found.score.toFixed(2)}, ${found.size || "size not known"}, ${VERDICTS.get(found.correct)}`,
      facets: { class: found.label, size: found.size || "not known", verdict: VERDICTS.get(found.correct) },
    }))),
    pictures: ({ item }) => Object.keys(item.maps).map((m) => [m, data.labels.detection[m]]),
    draw: (canvas, image, { item, found, k }, method, { mode, scale }) => {
      if (method === "") {
        paint.input(canvas, image, found.box);
        return { text: found.label };
      }
      const map = item.maps[method];
      const level = paint.bytes(map.levels[k]);
      if (mode === "heat") {
        paint.heat(canvas, image, level, item.grid);
        return { text: "" };
      }
      const { pixels, share, iou } = paint.mask(canvas, image, level, item.grid, item.input, scale * map.otsu[k], found.object);
      return { text: `${percent(share)} of the image${iou === null ? "" : `, IoU ${iou.toFixed(2)}`}`, pixels };
    },
  };
  const questions = {
    name: "questions",
    entries: data.vqa.map((item) => ({
      item, image: item.image, box: null, hash: `#question-${encodeURIComponent(item.id)}`, label: item.question,
      title: `${item.question} → ${item.answers} (image ${item.item}, ${VERDICTS.get(item.correct)})`,
      facets: { class: item.answer, verdict: VERDICTS.get(item.correct) },
    })),
    pictures: ({ item }) => Object.keys(item.maps).map((m) => [m, data.labels.vqa[m]]),
    draw: (canvas, image, { item }, method) => {
      if (method === "") {
        paint.input(canvas, image, null);
        return { text: item.question };
      }
      paint.regions(canvas, image, item.boxes, item.maps[method]);
      return { text: "", words: paint.words(item.tokens, item.maps[method]) };
    },
  };

  const dialog = document.getElementById("enlarged");
  const large = { canvas: dialog.querySelector("canvas"), title: dialog.querySelector("h3"), caption: dialog.querySelector("p") };
  let step = () => {};
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.querySelector("[name=close]").addEventListener("click", () => dialog.close());
  dialog.querySelector("[name=before]").addEventListener("click", () => step(-1));
  dialog.querySelector("[name=after]").addEventListener("click", () => step(1));

  const start = (kind) => {
    const root = document.getElementById(kind.name);
    if (!root) return;
    const [strip, tiles, status, title] = [".strip", ".tiles", "[role=status]", ".title"].map((s) => root.querySelector(s));
    const [before, after] = root.querySelectorAll(".walk a");
    const filters = [...root.querySelectorAll("select[data-facet]")];
    const scale = root.querySelector("[name=scale]");
    const mode = () => root.querySelector("input[type=radio]:checked");
    let shown = kind.entries;
    let current = null;
    const settings = () => ({ mode: mode() && mode().value, scale: scale && Number(scale.value) });
    const caption = (element, name, { text, words }) => {
      const parts = [make("b", {}, name)];
      if (text) parts.push(make("span", {}, text));
      if (words) parts.push(make("span", { class: "words" }, ...words.flatMap((word) => [word, " "])));
      element.replaceChildren(...parts.flatMap((part) => [part, " "]));
    };

    for (const entry of kind.entries) {
      const canvas = make("canvas", { width: 96, height: 96, "aria-hidden": "true" });
      entry.link = make("a", { href: entry.hash, title: entry.title }, canvas, make("span", {}, entry.label));
      entry.link.dataset.verdict = entry.facets.verdict;
      strip.append(make("li", {}, entry.link));
      paint.load(entry.image).then((image) => paint.crop(canvas, image, entry.box));
    }
    const redraw = async () => {
      if (!current) return;
      const entry = current;
      const image = await paint.load(entry.image);
      if (entry !== current) return;
      const now = settings();
      if (scale) {
        root.querySelector("output").value = now.scale.toFixed(2);
        scale.setAttribute("aria-valuetext", `${now.scale.toFixed(2)} times Otsu's threshold`);
      }
      for (const tile of tiles.children) {
        const drawn = kind.draw(tile.firstChild, image, entry, tile.dataset.method, now);
        caption(tile.lastChild, tile.dataset.name, drawn);
        if (drawn.pixels !== undefined) tile.dataset.pixels = String(drawn.pixels);
      }
      root.dataset.shown = [entry.hash, ...(scale ? [now.mode, now.scale] : [])].join("/");
    };
    const enlarge = async (number) => {
      const entry = current;
      const tile = tiles.children[number];
      const drawn = kind.draw(large.canvas, await paint.load(entry.image), entry, tile.dataset.method, settings());
      large.title.textContent = entry.title;
      caption(large.caption, tile.dataset.name, drawn);
      dialog.dataset.method = tile.dataset.method;
      step = (by) => enlarge((number + by + tiles.children.length) % tiles.children.length);
      if (!dialog.open) dialog.showModal();
    };
    const select = (entry) => {
      if (current) current.link.removeAttribute("aria-current");
      current = entry;
      title.textContent = entry ? entry.title : "No sample passes the filters.";
      const at = shown.indexOf(entry);
      for (const [link, other] of [[before, shown[at - 1]], [after, shown[at + 1]]]) {
        link.hidden = !entry || !other;
        if (other) link.href = other.hash;
      }
      const pictures = entry ? [["", "Input"], ...kind.pictures(entry)] : [];
      tiles.replaceChildren(...pictures.map(([method, name], number) => {
        const tile = make("button", { type: "button", "aria-haspopup": "dialog" }, make("canvas", { "aria-hidden": "true" }), make("span", { class: "caption" }));
        [tile.dataset.method, tile.dataset.name] = [method, name];
        tile.addEventListener("click", () => enlarge(number));
        return tile;
      }));
      if (entry) entry.link.setAttribute("aria-current", "true");
      return redraw();
    };
    const filter = (wanted = current) => {
      shown = kind.entries.filter((entry) => filters.every((f) => f.value === "" || entry.facets[f.dataset.facet] === f.value));
      for (const entry of kind.entries) entry.link.parentElement.hidden = !shown.includes(entry);
      status.textContent = `${shown.length} of ${kind.entries.length} ${kind.name}`;
      return select(shown.includes(wanted) ? wanted : shown[0] || null);
    };
    const follow = () => {
      const entry = kind.entries.find(({ hash }) => hash === location.hash);
      if (!entry) return false;
      if (!shown.includes(entry)) filters.forEach((f) => { f.value = ""; });
      filter(entry);
      fold.open(root);
      return true;
    };
    for (const select of filters) {
      const values = [...new Set(kind.entries.map((entry) => entry.facets[select.dataset.facet]))].sort();
      select.append(...values.map((value) => new Option(value, value)));
      select.addEventListener("change", () => filter());
    }
    root.querySelectorAll("input[type=radio]").forEach((radio) => radio.addEventListener("change", redraw));
    if (scale) {
      scale.addEventListener("input", () => {
        root.querySelector("input[value=mask]").checked = true; // a threshold is a mask's
        redraw();
      });
    }
    addEventListener("hashchange", follow);
    if (follow()) root.scrollIntoView();
    else filter();
  };
  start(detections);
  start(questions);
})();
