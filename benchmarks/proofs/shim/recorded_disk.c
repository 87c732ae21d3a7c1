/* Records what a process and its children do to the files below a directory, for LD_PRELOAD.
 *
 * RECORDED_ROOT names the directory (absolute), RECORDED_TRACE the file that records are appended
 * to. Every operation is passed on, and recorded once it succeeded; operation and record are one
 * step under a lock shared by all processes, so that the order of records is the order of effects.
 * A sync is two records, its begin and its end, since what is written meanwhile is not covered.
 * Writes through a memory map are not seen. Records are native-endian, see `struct head`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct head {
    uint32_t op;       /* a letter, see below */
    uint32_t paths;    /* bytes of the path behind this head; two paths are parted by a zero byte */
    uint64_t time_ns;  /* CLOCK_MONOTONIC, after the operation */
    uint64_t inode;    /* of the file */
    uint64_t offset;   /* of a write; new size of a truncation; token of a sync */
    uint64_t size;     /* bytes of data behind the path */
};

#define CREATE 'C'
#define WRITE 'W'
#define TRUNCATE 'T'
#define SYNC_BEGIN 'B'
#define SYNC_END 'E'
#define RENAME 'R'
#define UNLINK 'U'
#define MKDIR 'M'
#define RMDIR 'D'

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static char root[PATH_MAX];
static size_t root_length;
static int trace = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static ssize_t real_write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, data, size);
}

static int real_open(const char *path, int flags, mode_t mode) {
    REAL(int, "open", const char *, int, ...);
    return real(path, flags, mode);
}

__attribute__((constructor)) static void begin(void) {
    const char *from = getenv("RECORDED_ROOT"), *to = getenv("RECORDED_TRACE");
    if (!from || !to || strlen(from) >= sizeof root) return;
    strcpy(root, from);
    root_length = strlen(root);
    trace = real_open(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static void lock(void) {
    pthread_mutex_lock(&mutex);
    while (flock(trace, LOCK_EX) && errno == EINTR) {}
}

static void unlock(void) {
    int saved = errno;
    flock(trace, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    errno = saved;
}

static void record(uint32_t op, const char *paths, size_t num_paths, uint64_t inode,
                   uint64_t offset, const void *data, size_t size) {
    struct timespec now;
    int saved = errno;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct head head = {op, (uint32_t)num_paths,
                        (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
                        inode, offset, size};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)paths, num_paths}, {(void *)data, size}};
    size_t whole = sizeof head + num_paths + size;
    if (writev(trace, parts, 3) != (ssize_t)whole) abort(); /* a trace with a hole proves nothing */
    errno = saved;
}

static int is_inside(const char *path) {
    return trace >= 0 && !strncmp(path, root, root_length)
        && (path[root_length] == '/' || !path[root_length]);
}

/* Writes the path of a descriptor; tells whether it is recorded. */
static int path_of(int fd, char *path) {
    char link[64];
    if (trace < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_inside(path);
}

/* Writes the absolute path of a name; tells whether it is recorded. */
static int path_at(int dir, const char *name, char *path) {
    char base[PATH_MAX];
    if (trace < 0) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        if (dir == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else if (!path_of(dir, base)) {
            return 0;
        }
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return is_inside(path);
}

static uint64_t inode_of(int fd) {
    struct stat found;
    return fstat(fd, &found) ? 0 : (uint64_t)found.st_ino;
}

/* -- files --------------------------------------------------------------------------------- */

static int open_recorded(int dir, const char *name, int flags, mode_t mode) {
    REAL(int, "openat", int, const char *, int, ...);
    char path[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || (flags & O_DIRECTORY) || !path_at(dir, name, path))
        return real(dir, name, flags, mode);
    lock();
    int absent = faccessat(dir, name, F_OK, 0) != 0;
    int fd = real(dir, name, flags, mode);
    if (fd >= 0 && absent) record(CREATE, path, strlen(path), inode_of(fd), 0, NULL, 0);
    if (fd >= 0 && !absent && (flags & O_TRUNC))
        record(TRUNCATE, path, strlen(path), inode_of(fd), 0, NULL, 0);
    unlock();
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_recorded(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_recorded(AT_FDCWD, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...) {
    MODE(flags)
    return open_recorded(dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...) {
    MODE(flags)
    return open_recorded(dir, path, flags, mode);
}

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real_write(fd, data, size);
    lock();
    ssize_t num = real_write(fd, data, size);
    if (num > 0) {
        off_t after = lseek(fd, 0, SEEK_CUR);
        record(WRITE, path, strlen(path), inode_of(fd), (uint64_t)(after - num), data, (size_t)num);
    }
    unlock();
    return num;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd, data, size, offset);
    lock();
    ssize_t num = real(fd, data, size, offset);
    if (num > 0)
        record(WRITE, path, strlen(path), inode_of(fd), (uint64_t)offset, data, (size_t)num);
    unlock();
    return num;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd, size);
    lock();
    int failed = real(fd, size);
    if (!failed) record(TRUNCATE, path, strlen(path), inode_of(fd), (uint64_t)size, NULL, 0);
    unlock();
    return failed;
}

int ftruncate(int fd, off_t size) {
    return ftruncate64(fd, size);
}

static int sync_recorded(int fd, int (*real)(int)) {
    static uint32_t count;
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd);
    uint64_t inode = inode_of(fd);
    lock();
    uint64_t token = ((uint64_t)getpid() << 32) | ++count;
    record(SYNC_BEGIN, path, strlen(path), inode, token, NULL, 0);
    unlock();
    int failed = real(fd);
    lock();
    if (!failed) record(SYNC_END, path, strlen(path), inode, token, NULL, 0);
    unlock();
    return failed;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return sync_recorded(fd, real);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return sync_recorded(fd, real);
}

/* -- names --------------------------------------------------------------------------------- */

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    char paths[2 * PATH_MAX], target[PATH_MAX];
    if (!path_at(from_dir, from, paths) || !path_at(to_dir, to, target))
        return real(from_dir, from, to_dir, to);
    size_t length = strlen(paths) + 1;
    strcpy(paths + length, target);
    lock();
    int failed = real(from_dir, from, to_dir, to);
    if (!failed) record(RENAME, paths, length + strlen(target), 0, 0, NULL, 0);
    unlock();
    return failed;
}

int rename(const char *from, const char *to) {
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int unlinkat(int dir, const char *name, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    char path[PATH_MAX];
    if (!path_at(dir, name, path)) return real(dir, name, flags);
    lock();
    int failed = real(dir, name, flags);
    if (!failed)
        record(flags & AT_REMOVEDIR ? RMDIR : UNLINK, path, strlen(path), 0, 0, NULL, 0);
    unlock();
    return failed;
}

int unlink(const char *path) {
    return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path) {
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdirat(int dir, const char *name, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    char path[PATH_MAX];
    if (!path_at(dir, name, path)) return real(dir, name, mode);
    lock();
    int failed = real(dir, name, mode);
    if (!failed) record(MKDIR, path, strlen(path), 0, 0, NULL, 0);
    unlock();
    return failed;
}

int mkdir(const char *path, mode_t mode) {
    return mkdirat(AT_FDCWD, path, mode);
}
