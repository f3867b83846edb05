// COCO's compressed run lengths: pixels in column order, background first.

/** The runs of a compressed text. */
export function runsOf(text) {
  const runs = [];
  for (let place = 0; place < text.length;) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const code = text.charCodeAt(place++) - 48;
      value |= (code & 31) << shift;
      more = (code & 32) !== 0;
      shift += 5;
      if (!more && code & 16 && shift < 32) value |= -1 << shift;
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** The compressed text of runs. */
export function textOf(runs) {
  let text = "";
  runs.forEach((run, i) => {
    let value = i > 2 ? run - runs[i - 2] : run;
    for (let more = true; more;) {
      let code = value & 31;
      value >>= 5;
      more = code & 16 ? value !== -1 : value !== 0;
      if (more) code |= 32;
      text += String.fromCharCode(code + 48);
    }
  });
  return text;
}

/** Calls `paint(pixel)` for each pixel of a mask, in row order's numbering. */
export function eachPixel(runs, width, height, paint) {
  let start = 0;
  runs.forEach((run, i) => {
    if (i % 2) {
      let x = Math.floor(start / height), y = start - x * height;
      for (let left = run; left > 0; left--) {
        paint(y * width + x);
        if (++y === height) { y = 0; x++; }
      }
    }
    start += run;
  });
}

/** The compressed text of a mask, in row order: one byte per pixel, 0 is background. */
export function encodeMask(mask, width, height) {
  const runs = [];
  let value = 0, run = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const pixel = mask[y * width + x] ? 1 : 0;
      if (pixel !== value) { runs.push(run); run = 0; value = pixel; }
      run++;
    }
  }
  runs.push(run);
  return textOf(runs);
}
