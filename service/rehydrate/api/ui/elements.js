// Elements, made from names and texts alone: a text is always a text node, and never becomes markup.

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

// What people or models wrote, or named: shown as it is, and kept from turning the text around it.
export const said = (text, name = 'bdi') => h(name, {}, String(text));

export const id = (text, more = {}) => h('bdi.id', { title: text, ...more }, String(text));

export const hidden = (text) => h('span.visually-hidden', {}, text);

// Says something to who cannot see it.
export function tell(text) {
  document.getElementById('told').textContent = text;
}

// Sets the text only if it is another: what did not change is not announced, and keeps its selection.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
