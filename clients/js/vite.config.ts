import { defineConfig } from 'vitest/config';

const BANNER = '// The package @rehydrate/client as one module. Built from clients/js by `make client`: do not edit.';

export default defineConfig(({ mode }) => ({
  build: mode === 'bundle'
    ? {
        lib: { entry: 'src/bundle.ts', formats: ['es'], fileName: () => 'client.js' },
        outDir: process.env.OUT ?? '../../service/rehydrate/api',
        emptyOutDir: false,
        copyPublicDir: false,
        minify: false,
        target: 'es2023',
        rolldownOptions: { output: { postBanner: BANNER, minify: true } },
      }
    : {
        lib: { entry: ['src/index.ts', 'src/ably.ts', 'src/sse.ts', 'src/react.ts'], formats: ['es'] },
        copyPublicDir: false,
        minify: false,
        target: 'es2023',
        rolldownOptions: { external: ['react', 'ably'], output: { chunkFileNames: '[name].js' } },
      },
  test: { include: ['test/**/*.test.{ts,tsx}'] },
}));
