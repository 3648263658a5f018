// Drawing: relevance in colour over the grey picture, outlines of masks, boxes. Colours and opacities are those of the figures.

export function makeCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

// The picture in grey, as luminance 0..1 per pixel.
export function greyOf(picture, width, height) {
  const context = makeCanvas(width, height).getContext("2d");
  context.drawImage(picture, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Float32Array(width * height);
  for (let i = 0; i < grey.length; i++) grey[i] = (0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]) / 255;
  return grey;
}

// The ends of the colour scale: about 0 for signed relevance, else minimum and maximum. null: not finite.
export function scaleOf(values, signed) {
  let low = Infinity, high = -Infinity;
  for (const v of values) {
    if (!Number.isFinite(v)) return null;
    low = Math.min(low, v);
    high = Math.max(high, v);
  }
  const bound = Math.max(Math.abs(low), Math.abs(high));
  return signed ? { low: -bound, high: bound, signed } : { low, high, signed };
}

const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

// Where each of `pixels` lies among `cells`, pixel centres upon cell centres: between cells a and b, at t.
function places(cells, pixels, smooth) {
  const a = new Int32Array(pixels), b = new Int32Array(pixels), t = new Float32Array(pixels);
  for (let i = 0; i < pixels; i++) {
    const x = clamp(((i + 0.5) * cells) / pixels - 0.5, 0, cells - 1);
    a[i] = smooth ? Math.floor(x) : Math.floor(((i + 0.5) * cells) / pixels);
    b[i] = smooth ? Math.min(a[i] + 1, cells - 1) : a[i];
    t[i] = smooth ? x - a[i] : 0;
  }
  return { a, b, t };
}

// A map [h, w] over the grey picture, bilinear (or cell by cell) on its pixels.
export function paint(values, [h, w], grey, width, height, scale, table, smooth) {
  const out = new ImageData(width, height), pixels = out.data;
  const columns = places(w, width, smooth), lines = places(h, height, smooth);
  const { low, signed } = scale, span = scale.high - low;
  const [red, green, blue] = [0, 1, 2].map((k) => Uint8Array.from(table, (colour) => colour[k]));
  for (let y = 0, p = 0, n = 0; y < height; y++) {
    const upper = lines.a[y] * w, lower = lines.b[y] * w, s = lines.t[y];
    for (let x = 0; x < width; x++, p += 4, n++) {
      const left = columns.a[x], right = columns.b[x], t = columns.t[x];
      const top = values[upper + left] + t * (values[upper + right] - values[upper + left]);
      const bottom = values[lower + left] + t * (values[lower + right] - values[lower + left]);
      const unit = span > 0 ? clamp((top + s * (bottom - top) - low) / span, 0, 1) : signed ? 0.5 : 0;
      const c = Math.min(255, Math.floor(unit * 256));
      const alpha = signed ? 0.2 + 0.6 * Math.abs(2 * unit - 1) : 0.4 + 0.4 * unit;
      const ground = (1 - alpha) * 255 * (signed ? 0.35 + 0.65 * grey[n] : grey[n]);
      pixels[p] = ground + alpha * red[c];
      pixels[p + 1] = ground + alpha * green[c];
      pixels[p + 2] = ground + alpha * blue[c];
      pixels[p + 3] = 255;
    }
  }
  const canvas = makeCanvas(width, height);
  canvas.getContext("2d").putImageData(out, 0, 0);
  return canvas;
}

// The outline of a mask: a white line between black ones, legible on every colour.
export function outline(mask, width, height, unit) {
  const context = makeCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(mask, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[4 * (y * width + x)] > 127;
  const edge = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (inside(x, y) && !(inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1))) edge.push([x, y]);
    }
  }
  const canvas = makeCanvas(width, height), line = canvas.getContext("2d");
  for (const [colour, reach] of [["#000", 2 * unit], ["#fff", unit]]) {
    line.fillStyle = colour;
    for (const [x, y] of edge) line.fillRect(x - reach + 0.5, y - reach + 0.5, 2 * reach, 2 * reach);
  }
  return canvas;
}

// A box (x1, y1, x2, y2 in units of the sides) with its label; `unit` is canvas pixels per pixel of the screen.
export function box(context, [x1, y1, x2, y2], label, strong, unit) {
  const { width, height } = context.canvas;
  const [x, y, w, h] = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height];
  for (const [colour, line] of strong ? [["#000", 4.5], ["#00c8ff", 2.5]] : [["#000", 3], ["#fff", 1.3]]) {
    context.strokeStyle = colour;
    context.lineWidth = line * unit;
    context.strokeRect(x, y, w, h);
  }
  if (!label) return;
  context.font = `600 ${13 * unit}px system-ui, sans-serif`;
  const wide = context.measureText(label).width + 8 * unit, tall = 18 * unit;
  const left = clamp(x, 0, Math.max(0, width - wide)), top = y >= tall ? y - tall : Math.min(y, height - tall);
  context.fillStyle = strong ? "#00c8ff" : "rgba(0, 0, 0, .72)";
  context.fillRect(left, top, wide, tall);
  context.fillStyle = strong ? "#000" : "#fff";
  context.fillText(label, left + 4 * unit, top + 13.5 * unit);
}

export const css = ([r, g, b]) => `rgb(${r}, ${g}, ${b})`;

// Black or white, whichever is legible on the colour.
export function readable(colour) {
  const [r, g, b] = colour.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
}

export function colourAt(v, scale, table) {
  const span = scale.high - scale.low;
  const unit = span > 0 ? (v - scale.low) / span : scale.signed ? 0.5 : 0;
  return table[clamp(Math.floor(unit * 256), 0, 255)];
}
