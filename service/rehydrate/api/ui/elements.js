// Creates elements from names and texts: a text always becomes a text node, never markup.

const SVG = 'http://www.w3.org/2000/svg';

export const ICON = new URL('icon.svg', import.meta.url);

// `h('a.row', { href, onclick }, 'text', child, [more])`; null and false children are left out.
export function h(name, attributes = {}, ...children) {
  return built(document.createElement(tag(name)), name, attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return built(document.createElementNS(SVG, tag(name)), name, attributes, children);
}

const tag = (name) => name.split('.')[0];

function built(element, name, attributes, children) {
  const classes = name.split('.').slice(1);
  if (classes.length) element.setAttribute('class', classes.join(' '));
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'value' || key === 'checked') element[key] = value;
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Text or a name written by users or models, isolated so that it cannot change the text direction around it.
export const isolated = (text, name = 'bdi') => h(name, {}, String(text));

export const id = (text, more = {}) => h('bdi.id', { title: text, ...more }, String(text));

export const hidden = (text) => h('span.visually-hidden', {}, text);

// Announces a text to screen readers.
export function announce(text) {
  document.getElementById('live-region').textContent = text;
}

// Sets the text only if it differs: an unchanged text is not announced again and keeps its selection.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
