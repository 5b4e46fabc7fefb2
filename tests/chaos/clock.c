/* Preloaded into a process: its wall clock is ahead of the machine's by the first 8 bytes of the file
   $CHAOS_CLOCK, in ns. The monotonic clocks are unchanged, as when a clock is set. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *ahead_ns;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CHAOS_CLOCK");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *seen = mmap(NULL, sizeof(long long), PROT_READ, MAP_SHARED, fd, 0);
  if (seen != MAP_FAILED) ahead_ns = seen;
  close(fd);
}

int clock_gettime(clockid_t which, struct timespec *at) {
  int failed = (int)syscall(SYS_clock_gettime, which, at);
  if (!failed && ahead_ns && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
    long long ns = at->tv_sec * 1000000000LL + at->tv_nsec + *ahead_ns;
    at->tv_sec = ns / 1000000000LL;
    at->tv_nsec = ns % 1000000000LL;
  }
  return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
