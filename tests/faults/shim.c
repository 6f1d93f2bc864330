/* Faults at real operations: preloaded into a process, it counts what the process does to files below one directory,
 * and at the k-th of these operations kills the process or lets the operation fail.
 *
 * Nothing is counted before `faults_arm`; the plan lies in memory that the parent shares, so that it can be read after
 * a kill. Only the process that armed it is counted, never its children.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BEFORE = 1, AFTER = 2, HALF = 3, FAIL = 4, SHORT = 5 };
enum { WRITE = 'w', SYNC = 's', RENAME = 'r', UNLINK = 'u', MKDIR = 'm', TRUNCATE = 't' };
#define LOGGED 40000
#define ENTRY 160

struct plan {
  long count, fired, target, mode, error, lasting, pid, logging;
  char prefix[1024];
  char log[LOGGED][ENTRY];
};

static struct plan *plan;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;

void faults_arm(struct plan *given) {
  given->pid = getpid();
  plan = given;
}

void faults_disarm(void) { plan = NULL; }

static int below(const char *path) {
  size_t length = strlen(plan->prefix);
  return !strncmp(path, plan->prefix, length) && (path[length] == '/' || !path[length]);
}

static int place_of(int handle, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t got = readlink(link, path, PATH_MAX - 1);
  path[got > 0 ? got : 0] = 0;
  return got > 0;
}

static void place_at(int directory, const char *name, char *path) {
  if (name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name);
    return;
  }
  char folder[PATH_MAX];
  if (directory == AT_FDCWD ? !getcwd(folder, sizeof folder) : !place_of(directory, folder)) folder[0] = 0;
  if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX) path[0] = 0;
}

/* Whether a disk that is full refuses this: what needs no more space goes on. */
static int refused(int kind) {
  if (plan->error == EIO) return 1;
  return kind == WRITE || kind == SYNC || kind == MKDIR;
}

/* What befalls an operation: 0, or a mode; kills before it are carried out here. */
static int meet(int kind, const char *path) {
  if (!plan || plan->pid != getpid() || !below(path)) return 0;
  pthread_mutex_lock(&counting);
  long number = plan->count++;
  if (plan->logging && number < LOGGED) {
    const char *rest = path + strlen(plan->prefix) + 1;
    snprintf(plan->log[number], ENTRY, "%c%.*s", kind, ENTRY - 2, rest);
  }
  int mode = 0;
  if (plan->mode && number == plan->target) {
    mode = (int)plan->mode;
    plan->fired++;
  } else if (plan->mode >= FAIL && plan->lasting && plan->fired && (plan->mode == SHORT ? kind == WRITE : refused(kind))) {
    mode = (int)plan->mode;
    plan->fired++;
  }
  pthread_mutex_unlock(&counting);
  if (mode == BEFORE || (mode == HALF && kind != WRITE)) kill(getpid(), SIGKILL);
  return mode;
}

static void leave(int mode) {
  if (mode == AFTER || mode == HALF) kill(getpid(), SIGKILL);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define HALF_OF(size) ((size) > 1 ? (size) / 2 : (size))

/* An operation on an open file that writes `size` bytes by `call`, an expression in `size`. */
#define WRITING(handle, call)                                  \
  int mode = 0;                                                \
  if (plan && (handle) > 2) {                                  \
    char path[PATH_MAX];                                       \
    int kept = errno;                                          \
    if (place_of(handle, path)) mode = meet(WRITE, path);      \
    errno = kept;                                              \
  }                                                            \
  if (mode == FAIL) return errno = (int)plan->error, -1;       \
  if (mode == HALF || mode == SHORT) size = HALF_OF(size);     \
  ssize_t done = call;                                         \
  leave(mode);                                                 \
  return done;

ssize_t write(int handle, const void *data, size_t size) { WRITING(handle, REAL(write)(handle, data, size)) }

ssize_t pwrite(int handle, const void *data, size_t size, off_t at) {
  WRITING(handle, REAL(pwrite)(handle, data, size, at))
}

ssize_t pwrite64(int handle, const void *data, size_t size, off64_t at) {
  WRITING(handle, REAL(pwrite64)(handle, data, size, at))
}

ssize_t sendfile(int handle, int from, off_t *at, size_t size);
ssize_t sendfile64(int handle, int from, off64_t *at, size_t size);

ssize_t sendfile(int handle, int from, off_t *at, size_t size) {
  WRITING(handle, REAL(sendfile)(handle, from, at, size))
}

ssize_t sendfile64(int handle, int from, off64_t *at, size_t size) {
  WRITING(handle, REAL(sendfile64)(handle, from, at, size))
}

ssize_t copy_file_range(int from, off64_t *start, int handle, off64_t *at, size_t size, unsigned flags) {
  WRITING(handle, REAL(copy_file_range)(from, start, handle, at, size, flags))
}

ssize_t writev(int handle, const struct iovec *parts, int size) {
  WRITING(handle, REAL(writev)(handle, parts, size))
}

/* Anything else: it happens or does not. */
#define ACTING(kind, find, call)                         \
  int mode = 0;                                          \
  if (plan) {                                            \
    char path[PATH_MAX];                                 \
    int kept = errno;                                    \
    find;                                                \
    mode = meet(kind, path);                             \
    errno = kept;                                        \
  }                                                      \
  if (mode == FAIL) return errno = (int)plan->error, -1; \
  int done = call;                                       \
  leave(mode);                                           \
  return done;

int fsync(int handle) { ACTING(SYNC, place_of(handle, path), REAL(fsync)(handle)) }
int fdatasync(int handle) { ACTING(SYNC, place_of(handle, path), REAL(fdatasync)(handle)) }
int ftruncate(int handle, off_t size) { ACTING(TRUNCATE, place_of(handle, path), REAL(ftruncate)(handle, size)) }
int ftruncate64(int handle, off64_t size) { ACTING(TRUNCATE, place_of(handle, path), REAL(ftruncate64)(handle, size)) }
int rename(const char *from, const char *to) { ACTING(RENAME, place_at(AT_FDCWD, to, path), REAL(rename)(from, to)) }

int renameat(int one, const char *from, int two, const char *to) {
  ACTING(RENAME, place_at(two, to, path), REAL(renameat)(one, from, two, to))
}

int renameat2(int one, const char *from, int two, const char *to, unsigned flags) {
  ACTING(RENAME, place_at(two, to, path), REAL(renameat2)(one, from, two, to, flags))
}

int unlink(const char *name) { ACTING(UNLINK, place_at(AT_FDCWD, name, path), REAL(unlink)(name)) }
int rmdir(const char *name) { ACTING(UNLINK, place_at(AT_FDCWD, name, path), REAL(rmdir)(name)) }

int unlinkat(int directory, const char *name, int flags) {
  ACTING(UNLINK, place_at(directory, name, path), REAL(unlinkat)(directory, name, flags))
}

int mkdir(const char *name, mode_t rights) { ACTING(MKDIR, place_at(AT_FDCWD, name, path), REAL(mkdir)(name, rights)) }

int mkdirat(int directory, const char *name, mode_t rights) {
  ACTING(MKDIR, place_at(directory, name, path), REAL(mkdirat)(directory, name, rights))
}
