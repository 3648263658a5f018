"use strict";
(function () {
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const maps = { sequential: bytes(data.sequential), diverging: bytes(data.diverging) };
  const colour = (map, unit) => {
    const i = 3 * Math.max(0, Math.min(255, Math.round(255 * unit)));
    return [maps[map][i], maps[map][i + 1], maps[map][i + 2]];
  };
  const fill = (select, entries) => {
    const before = select.value;
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
    if (entries.some(([value]) => value === before)) select.value = before;
  };
  const images = new Map();
  const pixels = (source) => {
    if (!images.has(source)) {
      images.set(source, new Promise((resolve, reject) => {
        const image = new Image();
        image.onload = () => {
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          resolve(context.getImageData(0, 0, canvas.width, canvas.height));
        };
        image.onerror = () => reject(new Error("a sample's image cannot be shown"));
        image.src = source;
      }));
    }
    return images.get(source);
  };
  const put = (canvas, width, height, pixel) => {
    [canvas.width, canvas.height] = [width, height];
    const out = new ImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const [r, g, b] = pixel(x, y);
        out.data.set([r, g, b, 255], 4 * (y * width + x));
      }
    }
    canvas.getContext("2d").putImageData(out, 0, 0);
  };
  const grey = (image, i) => 0.299 * image.data[i] + 0.587 * image.data[i + 1] + 0.114 * image.data[i + 2];
  const mix = (ground, over, alpha) => over.map((c) => (1 - alpha) * ground + alpha * c);
  // bilinear weights of one axis at one pixel: two cells and the weight of the second
  const between = (position, cells, size) => {
    const at = Math.max(0, ((position + 0.5) * cells) / size - 0.5);
    const low = Math.min(Math.floor(at), cells - 1);
    return [low, Math.min(low + 1, cells - 1), at - low];
  };
  const outline = (canvas, box, style) => {
    const context = canvas.getContext("2d");
    const [x1, y1, x2, y2] = box;
    for (const [ink, width] of [["#000", 4], [style, 2]]) {
      context.strokeStyle = ink;
      context.lineWidth = (width * canvas.width) / 360;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
  };
  const showInput = (canvas, image, box) => {
    put(canvas, image.width, image.height, (x, y) => image.data.slice(4 * (y * image.width + x), 4 * (y * image.width + x) + 3));
    if (box) outline(canvas, box, "#00c8ff");
  };

  const detections = document.getElementById("detections");
  if (detections) {
    const control = (name) => detections.querySelector(`[name="${name}"]`);
    const [sample, found, method, scale] = ["sample", "detection", "method", "scale"].map(control);
    const status = detections.querySelector("[role=status]");
    const draw = async () => {
      const item = data.detection[Number(sample.value)];
      const k = Number(found.value);
      const map = item.maps[method.value];
      const mode = detections.querySelector("[name=mode]:checked").value;
      detections.querySelector(".scale").hidden = mode !== "mask";
      detections.querySelector("output").value = Number(scale.value).toFixed(2);
      const image = await pixels(item.image);
      const { width, height } = image;
      const [rows, columns] = item.grid;
      const level = bytes(map.levels[k]);
      const canvas = detections.querySelector("canvas.relevance");
      showInput(detections.querySelector("canvas.input"), image, item.detections[k].box);
      let text = `${data.labels.detection[method.value]}, ${item.detections[k].label} ${item.detections[k].score.toFixed(2)}`;
      if (mode === "heat") {
        const across = Array.from({ length: width }, (_, x) => between(x, columns, width));
        put(canvas, width, height, (x, y) => {
          const [top, bottom, v] = between(y, rows, height);
          const [left, right, u] = across[x];
          const line = (r) => (1 - u) * level[r * columns + left] + u * level[r * columns + right];
          const unit = ((1 - v) * line(top) + v * line(bottom)) / 255;
          return mix(grey(image, 4 * (y * width + x)), colour("sequential", unit), 0.4 + 0.4 * unit);
        });
      } else {
        // as in the evaluation: bilinear to the network's input, anything touched; nearest to the image
        const limit = Number(scale.value) * map.otsu[k];
        const [inputRows, inputColumns] = item.input;
        const touched = (position, size, cells, input) => {
          const [low, high, weight] = between(Math.floor((position * input) / size), cells, input);
          return weight > 0 ? [low, high] : [low];
        };
        const across = Array.from({ length: width }, (_, x) => touched(x, width, columns, inputColumns));
        let count = 0;
        put(canvas, width, height, (x, y) => {
          const down = touched(y, height, rows, inputRows);
          const inside = down.some((r) => across[x].some((c) => level[r * columns + c] > limit));
          count += inside;
          const ground = grey(image, 4 * (y * width + x));
          return inside ? mix(ground, [0, 158, 115], 0.55) : mix(ground, [255, 255, 255], 0.45);
        });
        text += `: mask at ${Number(scale.value).toFixed(2)} × Otsu, ${((100 * count) / (width * height)).toFixed(1)} % of the image`;
        detections.dataset.pixels = String(count);
      }
      status.textContent = text;
      canvas.setAttribute("aria-label", text);
      detections.dataset.shown = [sample.value, found.value, method.value, mode, scale.value].join("/");
    };
    const choose = () => {
      const item = data.detection[Number(sample.value)];
      fill(found, item.detections.map((d, i) => [String(i), `${d.label} (${d.score.toFixed(2)})`]));
      fill(method, Object.keys(item.maps).map((m) => [m, data.labels.detection[m]]));
      return draw();
    };
    fill(sample, data.detection.map((item, i) => [String(i), item.title]));
    sample.addEventListener("change", choose);
    for (const element of detections.querySelectorAll("[name=detection], [name=method], [name=mode]")) element.addEventListener("change", draw);
    scale.addEventListener("input", draw);
    choose();
  }

  const questions = document.getElementById("questions");
  if (questions) {
    const [sample, method] = ["sample", "method"].map((name) => questions.querySelector(`[name="${name}"]`));
    const status = questions.querySelector("[role=status]");
    const draw = async () => {
      const item = data.vqa[Number(sample.value)];
      const map = item.maps[method.value];
      const image = await pixels(item.image);
      const { width, height } = image;
      const signed = Math.min(...map.image, ...map.text) < 0;
      const name = signed ? "diverging" : "sequential";
      // signed maps about 0, the others from their own minimum to their own maximum
      const scaled = (values) => {
        const most = values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
        const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
        if (signed) return (v) => (most > 0 ? v / most : 0);
        return (v) => (high > low ? (v - low) / (high - low) : Number(high > 0));
      };
      const shade = (u) => colour(name, signed ? 0.5 + 0.5 * u : u);
      const painted = new Float32Array(width * height);
      const order = map.image.map((value, i) => [Math.abs(value), i]).sort((a, b) => a[0] - b[0]);
      for (const [, i] of order) {
        const [x1, y1, x2, y2] = item.boxes[i].map((v, j) => (j < 2 ? Math.floor(v) : Math.ceil(v)));
        for (let y = Math.max(0, y1); y < Math.min(height, y2); y++) painted.fill(map.image[i], y * width + Math.max(0, x1), y * width + Math.min(width, x2));
      }
      const place = scaled(painted);
      const canvas = questions.querySelector("canvas.relevance");
      showInput(questions.querySelector("canvas.input"), image, null);
      put(canvas, width, height, (x, y) => {
        const i = y * width + x;
        const u = place(painted[i]);
        const ground = grey(image, 4 * i);
        return signed ? mix(89 + 0.65 * ground, shade(u), 0.2 + 0.6 * Math.abs(u)) : mix(ground, shade(u), 0.4 + 0.4 * u);
      });
      for (const [, i] of order.slice(-3)) outline(canvas, item.boxes[i], "#fff");
      const word = scaled(map.text.slice(1));
      questions.querySelector(".words").replaceChildren(...item.tokens.slice(1).map((token, i) => {
        const span = document.createElement("span");
        const [r, g, b] = shade(word(map.text[i + 1]));
        const light = [r, g, b].map((c) => { const s = c / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; });
        span.style.background = `rgb(${r} ${g} ${b})`;
        span.style.color = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] > 0.18 ? "#000" : "#fff";
        span.textContent = token;
        span.title = map.text[i + 1].toPrecision(3);
        return span;
      }));
      status.textContent = `${data.labels.vqa[method.value]}: “${item.question}” → ${item.answers}`;
      canvas.setAttribute("aria-label", status.textContent);
      questions.dataset.shown = [sample.value, method.value].join("/");
    };
    const choose = () => {
      fill(method, Object.keys(data.vqa[Number(sample.value)].maps).map((m) => [m, data.labels.vqa[m]]));
      return draw();
    };
    fill(sample, data.vqa.map((item, i) => [String(i), item.title]));
    sample.addEventListener("change", choose);
    method.addEventListener("change", draw);
    choose();
  }
})();
(function () {
  const table = document.getElementById("board");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const model = document.getElementById("b-model");
  const text = document.getElementById("b-text");
  const status = document.querySelector(".board [role=status]");
  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    for (const row of rows) {
      const [its, , method] = [...row.cells].map((cell) => cell.textContent);
      row.hidden = (model.value !== "" && its !== model.value) || !method.toLowerCase().includes(wanted);
    }
    const used = (column) => rows.some((row) => !row.hidden && row.cells[column].textContent !== "");
    heads.forEach((head, column) => {  // measures of other models would be empty columns
      const hidden = !used(column) && rows.some((row) => !row.hidden);
      for (const cell of [head, ...rows.map((row) => row.cells[column])]) cell.hidden = hidden;
    });
    status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  const sort = (column) => {
    const rising = heads[column].getAttribute("aria-sort") === "descending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", rising ? "ascending" : "descending");
    const value = (row) => row.cells[column].textContent;
    const compare = (a, b) => {
      if ((value(a) === "") !== (value(b) === "")) return value(a) === "" ? 1 : -1;  // without a value: last
      const [x, y] = [Number(value(a)), Number(value(b))];
      const order = Number.isNaN(x) || Number.isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
      return rising ? order : -order;
    };
    body.replaceChildren(...rows.sort(compare));
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
  model.addEventListener("change", filter);
  text.addEventListener("input", filter);
  filter();
})();
