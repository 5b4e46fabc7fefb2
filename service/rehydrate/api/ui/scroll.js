// Paging by scrolling, and periodic refresh.

import { h } from './elements.js';

// A button after (or before) a list that activates itself when it scrolls into view.
export function more(label, load) {
  const button = h('button.more', { type: 'button', hidden: true, onclick: press }, label);
  let busy = false;
  const seen = new IntersectionObserver((entries) => entries.some((each) => each.isIntersecting) && press(), { rootMargin: '600px', scrollMargin: '600px' });
  seen.observe(button);
  return {
    button,
    show: (there) => {
      button.hidden = !there;
      if (!there) return;
      seen.unobserve(button); // observing again reports the current visibility: it may be visible already
      seen.observe(button);
    },
    close: () => seen.disconnect(),
  };

  async function press() {
    if (busy || button.hidden) return;
    busy = true;
    button.setAttribute('aria-busy', 'true');
    try {
      await load();
    } finally {
      busy = false;
      button.removeAttribute('aria-busy');
    }
  }
}

// Calls `act` every `ms` milliseconds while the page is visible; `close` stops it.
export function everyMs(ms, act) {
  let timer = null, closed = false;
  const round = async () => {
    if (!document.hidden) await act();
    if (!closed) timer = setTimeout(round, ms);
  };
  timer = setTimeout(round, ms);
  return { close: () => ((closed = true), clearTimeout(timer)) };
}
