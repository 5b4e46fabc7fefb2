// Lists that go on when one comes near their end.

import { h } from './elements.js';

// A button behind (or before) a list that presses itself when it is seen.
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
      seen.unobserve(button); // asked anew: it may be in sight already
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

// Does something now and then, while the page is looked at; `close` ends it.
export function everyMs(ms, act) {
  let timer = null, closed = false;
  const round = async () => {
    if (!document.hidden) await act();
    if (!closed) timer = setTimeout(round, ms);
  };
  timer = setTimeout(round, ms);
  return { close: () => ((closed = true), clearTimeout(timer)) };
}
