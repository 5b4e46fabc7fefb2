// Chart of the text over time: one step per chunk, in the colour of its source, and a mark below it.

import { svg } from './elements.js';
import { count, seconds } from './words.js';

const WIDTH = 400, HEIGHT = 190, LEFT = 8, RIGHT = 8, TOP = 22, FLOOR = 150, RUG = 158, RUG_HEIGHT = 10;

export function chart(pieces, gaps) {
  const began = Math.min(...pieces.map((each) => each.atMs)), ended = Math.max(...pieces.map((each) => each.atMs));
  const whole = pieces.reduce((sum, each) => sum + each.characters, 0);
  const span = Math.max(1, ended - began);
  const x = (ms) => LEFT + ((ms - began) / span) * (WIDTH - LEFT - RIGHT);
  const y = (characters) => FLOOR - (characters / Math.max(1, whole)) * (FLOOR - TOP);
  const label = `${count(whole)} characters in ${count(pieces.length)} chunks over ${seconds(span / 1000)}`;
  return svg('svg.chart', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': label, preserveAspectRatio: 'none' },
    [0.25, 0.5, 0.75].map((part) => svg('line.grid', { x1: LEFT, x2: WIDTH - RIGHT, y1: y(whole * part), y2: y(whole * part) })),
    svg('line.floor', { x1: LEFT, x2: WIDTH - RIGHT, y1: FLOOR, y2: FLOOR }),
    lines(pieces, x, y),
    rug(pieces, x),
    holes(pieces, gaps, x));
}

// One path for each run of chunks from one source.
function lines(pieces, x, y) {
  const made = [];
  let sum = 0, path = '', source = null, from = null;
  for (const each of pieces) {
    if (each.source !== source) {
      if (path) made.push(svg(`path.line.${source}`, { d: path }));
      path = `M${(from ?? x(each.atMs)).toFixed(1)} ${y(sum).toFixed(1)}`;
      source = each.source;
    }
    from = x(each.atMs);
    path += `H${from.toFixed(1)}`;
    sum += each.characters;
    path += `V${y(sum).toFixed(1)}`;
  }
  if (path) made.push(svg(`path.line.${source}`, { d: path }));
  return made;
}

function rug(pieces, x) {
  const paths = { database: '', history: '', live: '' };
  for (const each of pieces) paths[each.source] += `M${x(each.atMs).toFixed(1)} ${RUG}v${RUG_HEIGHT}`;
  return Object.entries(paths).filter(([, d]) => d).map(([source, d]) => svg(`path.rug.${source}`, { d }));
}

// A gap is drawn between the chunks around it.
function holes(pieces, gaps, x) {
  return gaps.map(([first, last]) => {
    const before = pieces.findLast((each) => each.seq !== null && each.seq < first);
    const behind = pieces.find((each) => each.seq !== null && each.seq > last);
    const left = x((before ?? behind ?? pieces[0]).atMs), right = x((behind ?? before ?? pieces[0]).atMs);
    return svg('rect.hole', { x: left, y: TOP, width: Math.max(3, right - left), height: FLOOR - TOP });
  });
}
