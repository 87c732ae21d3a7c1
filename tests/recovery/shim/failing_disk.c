/* A disk that fails on demand, for LD_PRELOAD.
 *
 * The file named by FAILING_DISK_CONTROL says what fails; without the file nothing does. One word:
 *   full    writes fail with ENOSPC
 *   short   every write of more than 512 bytes writes 512, the next one fails with ENOSPC
 *   sync    fsync and fdatasync fail with EIO
 * Only files whose path contains FAILING_DISK_NAME are touched. What a failed sync leaves behind is
 * what Linux may leave: the bytes stay in the page cache, and the next sync succeeds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum fault { NONE, FULL, SHORT, SYNC };

#define REAL(name, type) \
    static type real; \
    if (!real) real = (type)dlsym(RTLD_NEXT, name)

typedef ssize_t (*write_fn)(int, const void *, size_t);
typedef ssize_t (*pwrite_fn)(int, const void *, size_t, off64_t);
typedef int (*sync_fn)(int);

static enum fault fault_of(int fd) {
    const char *control = getenv("FAILING_DISK_CONTROL"), *name = getenv("FAILING_DISK_NAME");
    char link[64], path[4096], word[16] = "";
    int saved = errno;
    enum fault found = NONE;
    if (!control || !name) return NONE;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        int handle = strstr(path, name) ? open(control, O_RDONLY | O_CLOEXEC) : -1;
        if (handle >= 0) {
            if (read(handle, word, sizeof word - 1) < 0) word[0] = 0;
            close(handle);
            if (!strncmp(word, "full", 4)) found = FULL;
            if (!strncmp(word, "short", 5)) found = SHORT;
            if (!strncmp(word, "sync", 4)) found = SYNC;
        }
    }
    errno = saved;
    return found;
}

/* Returns how many bytes to write; -1: none, errno is set. */
static ssize_t allowed(int fd, size_t size) {
    static __thread int cut;
    switch (fault_of(fd)) {
    case SHORT:
        if (size > 512 && !cut) {
            cut = 1;
            return 512;
        }
        cut = 0;
        if (size <= 512) return (ssize_t)size;
        /* fall through */
    case FULL:
        errno = ENOSPC;
        return -1;
    default:
        return (ssize_t)size;
    }
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL("write", write_fn);
    ssize_t num = allowed(fd, size);
    return num < 0 ? -1 : real(fd, data, (size_t)num);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL("pwrite64", pwrite_fn);
    ssize_t num = allowed(fd, size);
    return num < 0 ? -1 : real(fd, data, (size_t)num, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

static int sync_or_fail(int fd, sync_fn real) {
    if (fault_of(fd) == SYNC) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fsync(int fd) {
    REAL("fsync", sync_fn);
    return sync_or_fail(fd, real);
}

int fdatasync(int fd) {
    REAL("fdatasync", sync_fn);
    return sync_or_fail(fd, real);
}
