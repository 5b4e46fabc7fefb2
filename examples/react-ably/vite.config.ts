import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

// `rehydrate serve` on its default port. In production, your backend embeds it, or a proxy does this.
export default defineConfig({
  plugins: [react()],
  base: './',
  server: { proxy: { '/v1': 'http://127.0.0.1:8000' } },
});
