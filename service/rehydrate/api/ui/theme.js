// Light or dark theme: the system's, until the user chooses one.

import { h } from './elements.js';

const PLACE = 'rehydrate.theme';
const NEXT = { auto: 'light', light: 'dark', dark: 'auto' };
const SIGNS = { auto: '◐', light: '☀', dark: '☾' };

const chosen = () => localStorage.getItem(PLACE) ?? 'auto';

export function wear(theme = chosen()) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export function themeButton() {
  const button = h('button.quiet', { type: 'button', onclick: change });
  show();
  return button;

  function change() {
    const theme = NEXT[chosen()];
    localStorage.setItem(PLACE, theme);
    wear(theme);
    show();
  }

  function show() {
    button.textContent = SIGNS[chosen()];
    button.setAttribute('aria-label', `Theme: ${chosen()}. Change it.`);
    button.title = `Theme: ${chosen()}`;
  }
}
