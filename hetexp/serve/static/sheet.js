// The picture that is downloaded: what the page shows, with a caption that says what it is.

import { css, makeCanvas, readable } from "./draw.js";

const SIZE = 20, LINE = 30, EDGE = 14;

// Words or pieces of text set in lines no wider than `width`.
function wrapped(context, pieces, width, gap, pad) {
  const lines = [[]];
  let x = 0;
  for (const piece of pieces) {
    const own = context.measureText(piece.text).width + 2 * pad;
    if (lines.at(-1).length && x + own > width) {
      lines.push([]);
      x = 0;
    }
    lines.at(-1).push({ ...piece, x, own });
    x += own + gap;
  }
  return lines;
}

export function pictureWithCaption(picture, captions, words) {
  const font = `${SIZE}px system-ui, sans-serif`;
  const measure = makeCanvas(1, 1).getContext("2d");
  measure.font = font;
  const width = picture.width - 2 * EDGE, space = measure.measureText(" ").width;
  const shaded = words.length ? wrapped(measure, words, width, 6, 8) : [];
  const texts = captions.flatMap((text) => wrapped(measure, text.split(" ").map((t) => ({ text: t })), width, space, 0));
  const sheet = makeCanvas(picture.width, picture.height + 2 * EDGE + LINE * (texts.length + 1.2 * shaded.length));
  const context = sheet.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.drawImage(picture, 0, 0);
  context.font = font;
  let y = picture.height + EDGE;
  for (const line of shaded) {
    for (const { text, x, own, colour } of line) {
      context.fillStyle = colour ? css(colour) : "#eee";
      context.fillRect(EDGE + x, y, own, LINE - 2);
      context.fillStyle = colour ? readable(colour) : "#555";
      context.fillText(text, EDGE + x + 8, y + SIZE);
    }
    y += 1.2 * LINE;
  }
  context.fillStyle = "#111";
  for (const line of texts) {
    for (const { text, x } of line) context.fillText(text, EDGE + x, y + SIZE);
    y += LINE;
  }
  return sheet;
}
