// Pictures of the gallery on canvases: maps over grey images, masks at any threshold, regions and words.
const paint = (() => {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const tables = { sequential: bytes(data.sequential), diverging: bytes(data.diverging) };
  const place = (unit) => 3 * Math.max(0, Math.min(255, Math.round(255 * unit)));
  const INSIDE = [0, 158, 115];
  const BOX = "#00c8ff";
  const OBJECT = [255, 176, 0];

  const loaded = new Map();
  const load = (source) => {
    if (!loaded.has(source)) {
      loaded.set(source, new Promise((resolve, reject) => {
        const image = new Image();
        image.onload = () => resolve(image);
        image.onerror = () => reject(new Error("a sample's image cannot be shown"));
        image.src = source;
      }));
    }
    return loaded.get(source);
  };
  const greys = new WeakMap(); // image -> its luminance, one number per pixel
  const grey = (image) => {
    if (!greys.has(image)) {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      const from = context.getImageData(0, 0, canvas.width, canvas.height).data;
      const grey = new Float32Array(from.length / 4);
      for (let i = 0; i < grey.length; i++) grey[i] = 0.299 * from[4 * i] + 0.587 * from[4 * i + 1] + 0.114 * from[4 * i + 2];
      greys.set(image, grey);
    }
    return greys.get(image);
  };
  const sized = (canvas, image) => {
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    return canvas.getContext("2d");
  };
  const outline = (context, box, style) => {
    const [x1, y1, x2, y2] = box;
    for (const [ink, width] of [["#000", 4], [style, 2]]) {
      context.strokeStyle = ink;
      context.lineWidth = (width * context.canvas.width) / 360;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
  };
  // bilinear weights of one axis at one pixel: two cells and the weight of the second
  const between = (position, cells, size) => {
    const at = Math.max(0, ((position + 0.5) * cells) / size - 0.5);
    const low = Math.min(Math.floor(at), cells - 1);
    return [low, Math.min(low + 1, cells - 1), at - low];
  };
  // run lengths, column by column, the first of pixels outside -> 1 inside, row by row
  const decoded = (counts, width, height) => {
    const inside = new Uint8Array(width * height);
    let at = 0;
    counts.forEach((count, i) => {
      if (i % 2) for (let j = at; j < at + count; j++) inside[(j % height) * width + Math.floor(j / height)] = 1;
      at += count;
    });
    return inside;
  };
  const edge = (out, object, width, height) => {
    for (let i = 0; i < object.length; i++) {
      const x = i % width;
      const here = object[i];
      if ((x + 1 < width && object[i + 1] !== here) || (i + width < object.length && object[i + width] !== here)) out.set([...OBJECT, 255], 4 * i);
    }
  };

  const input = (canvas, image, box) => {
    const context = sized(canvas, image);
    context.drawImage(image, 0, 0);
    if (box) outline(context, box, BOX);
  };
  const crop = (canvas, image, box) => {
    const [x1, y1, x2, y2] = box || [0, 0, image.naturalWidth, image.naturalHeight];
    const side = Math.min(Math.max(x2 - x1, y2 - y1, 1) * 1.3, image.naturalWidth, image.naturalHeight);
    const clamp = (at, size) => Math.max(0, Math.min(size - side, at - side / 2));
    const [left, top] = [clamp((x1 + x2) / 2, image.naturalWidth), clamp((y1 + y2) / 2, image.naturalHeight)];
    canvas.getContext("2d").drawImage(image, left, top, side, side, 0, 0, canvas.width, canvas.height);
  };
  const heat = (canvas, image, level, [rows, columns]) => {
    const context = sized(canvas, image);
    const { width, height } = canvas;
    const out = context.createImageData(width, height);
    const ground = grey(image);
    const across = Array.from({ length: width }, (_, x) => between(x, columns, width));
    for (let y = 0, i = 0; y < height; y++) {
      const [top, bottom, v] = between(y, rows, height);
      for (let x = 0; x < width; x++, i++) {
        const [left, right, u] = across[x];
        const upper = (1 - u) * level[top * columns + left] + u * level[top * columns + right];
        const lower = (1 - u) * level[bottom * columns + left] + u * level[bottom * columns + right];
        const unit = ((1 - v) * upper + v * lower) / 255;
        const alpha = 0.4 + 0.4 * unit;
        const at = place(unit);
        for (let c = 0; c < 3; c++) out.data[4 * i + c] = (1 - alpha) * ground[i] + alpha * tables.sequential[at + c];
        out.data[4 * i + 3] = 255;
      }
    }
    context.putImageData(out, 0, 0);
  };
  // as in the evaluation: bilinear to the network's input, anything touched; nearest to the image
  const mask = (canvas, image, level, [rows, columns], [inputRows, inputColumns], limit, counts) => {
    const context = sized(canvas, image);
    const { width, height } = canvas;
    const out = context.createImageData(width, height);
    const ground = grey(image);
    const above = level.map((value) => value > limit);
    const touched = (position, size, cells, inputs) => {
      const [low, high, weight] = between(Math.floor((position * inputs) / size), cells, inputs);
      return [low, weight > 0 ? high : low];
    };
    const across = Array.from({ length: width }, (_, x) => touched(x, width, columns, inputColumns));
    const object = counts && decoded(counts, width, height);
    let [pixels, common, either] = [0, 0, 0];
    for (let y = 0, i = 0; y < height; y++) {
      const [top, bottom] = touched(y, height, rows, inputRows).map((row) => row * columns);
      for (let x = 0; x < width; x++, i++) {
        const [left, right] = across[x];
        const inside = above[top + left] | above[top + right] | above[bottom + left] | above[bottom + right];
        pixels += inside;
        if (object) {
          common += inside & object[i];
          either += inside | object[i];
        }
        for (let c = 0; c < 3; c++) out.data[4 * i + c] = inside ? 0.45 * ground[i] + 0.55 * INSIDE[c] : 0.55 * ground[i] + 0.45 * 255;
        out.data[4 * i + 3] = 255;
      }
    }
    if (object) edge(out.data, object, width, height);
    context.putImageData(out, 0, 0);
    return { pixels, share: pixels / (width * height), iou: object ? common / either : null };
  };
  // signed values about 0, others from their own minimum to their own maximum
  const scaled = (values, signed) => {
    let [low, high] = [Infinity, -Infinity];
    for (let i = 0; i < values.length; i++) {
      low = Math.min(low, values[i]);
      high = Math.max(high, values[i]);
    }
    const most = Math.max(-low, high);
    if (signed) return (v) => (most > 0 ? v / most : 0);
    return (v) => (high > low ? (v - low) / (high - low) : Number(high > 0));
  };
  const isSigned = (map) => Math.min(...map.image, ...map.text) < 0;
  const shade = (signed, unit) => {
    const at = place(signed ? 0.5 + 0.5 * unit : unit);
    return tables[signed ? "diverging" : "sequential"].subarray(at, at + 3);
  };
  const regions = (canvas, image, boxes, map) => {
    const context = sized(canvas, image);
    const { width, height } = canvas;
    const out = context.createImageData(width, height);
    const [ground, signed] = [grey(image), isSigned(map)];
    const painted = new Float32Array(width * height);
    const order = map.image.map((value, i) => [Math.abs(value), i]).sort((a, b) => a[0] - b[0]);
    for (const [, i] of order) {
      const [x1, y1, x2, y2] = boxes[i].map((v, j) => (j < 2 ? Math.floor(v) : Math.ceil(v)));
      for (let y = Math.max(0, y1); y < Math.min(height, y2); y++) painted.fill(map.image[i], y * width + Math.max(0, x1), y * width + Math.min(width, x2));
    }
    const [unit, table] = [scaled(painted, signed), tables[signed ? "diverging" : "sequential"]];
    for (let i = 0; i < painted.length; i++) {
      const u = unit(painted[i]);
      const at = place(signed ? 0.5 + 0.5 * u : u);
      const under = signed ? 89 + 0.65 * ground[i] : ground[i];
      const alpha = signed ? 0.2 + 0.6 * Math.abs(u) : 0.4 + 0.4 * u;
      for (let c = 0; c < 3; c++) out.data[4 * i + c] = (1 - alpha) * under + alpha * table[at + c];
      out.data[4 * i + 3] = 255;
    }
    context.putImageData(out, 0, 0);
    for (const [, i] of order.slice(-3)) outline(context, boxes[i], "#fff");
  };
  const words = (tokens, map) => {
    const signed = isSigned(map);
    const unit = scaled(map.text.slice(1), signed);
    return tokens.slice(1).map((token, i) => {
      const span = document.createElement("span");
      const colour = shade(signed, unit(map.text[i + 1]));
      const [r, g, b] = [...colour].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
      span.style.background = `rgb(${colour.join(" ")})`;
      span.style.color = 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
      span.textContent = token;
      span.title = map.text[i + 1].toPrecision(3);
      return span;
    });
  };
  return { data, bytes, load, input, crop, heat, mask, regions, words };
})();
