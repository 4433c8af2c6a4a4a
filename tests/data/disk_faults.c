/*
 * Let system calls of one process fail from a named step on: the disk of a fault test.
 *
 * Preloaded into the engine (LD_PRELOAD). It watches what the engine writes to its standard output, one JSON event a
 * line; when the named step is reported it arms itself, and first stands still until a file appears, where one is
 * named. From then on calls on files below one directory fail as the effect says. It removes itself from the
 * environment, so that no child of the process (libvirtd, which the client library starts) inherits it.
 *
 *   FAULT_EVENT      text of the event that arms it, such as "step": "drained"
 *   FAULT_GO         stand still there until this file exists; unset = go on at once
 *   FAULT_DIRECTORY  only files below it are touched
 *   FAULT_EFFECT     ENOSPC  no call that needs room succeeds any more
 *                    EIO     no read, write, sync, cut or rename succeeds any more
 *                    short   one read or write of whole blocks transfers half of them
 *                    torn    one read or write ends inside a block
 *   FAULT_SKIP       so many calls that would have failed are let through first
 *
 * Source: ld.so(8), LD_PRELOAD; dlsym(3), RTLD_NEXT.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum effect { NONE, FULL, BROKEN, SHORT, TORN };

static const size_t BLOCK_SIZE = 4096; /* bytes; of every file system the tests use */
static const size_t SECTOR_SIZE = 512; /* bytes; part of a block */
static const long POLL_NANOSECONDS = 5 * 1000 * 1000;

static char *event, *go, *directory;
static enum effect effect;
static atomic_int is_armed, skip;

static char *take(const char *name)
{
    const char *value = getenv(name);
    char *kept = value ? strdup(value) : NULL;
    unsetenv(name);
    return kept;
}

__attribute__((constructor)) static void begin(void)
{
    free(take("LD_PRELOAD"));
    event = take("FAULT_EVENT");
    go = take("FAULT_GO");
    directory = take("FAULT_DIRECTORY");
    char *name = take("FAULT_EFFECT"), *count = take("FAULT_SKIP");
    const char *names[] = {"", "ENOSPC", "EIO", "short", "torn"};
    for (int kind = FULL; name && kind <= TORN; kind++)
        if (strcmp(name, names[kind]) == 0)
            effect = (enum effect)kind;
    skip = count ? atoi(count) : 0;
    free(name);
    free(count);
}

/* Tell whether the path lies below the directory of the fault. */
static int is_below(const char *path)
{
    return directory && path && strncmp(path, directory, strlen(directory)) == 0;
}

static int is_file_below(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

/* Tell whether it is this call's turn. */
static int strikes(void)
{
    return atomic_load(&is_armed) && atomic_fetch_sub(&skip, 1) <= 0;
}

/* Return the error number of a call that needs room on the disk, 0 to let it through. */
static int refuse_room(void)
{
    return effect == FULL && strikes() ? ENOSPC : 0;
}

/* Return the error number of a call that a broken disk or a full one refuses, 0 to let it through. */
static int refuse_write(void)
{
    if (effect != FULL && effect != BROKEN)
        return 0;
    return strikes() ? (effect == FULL ? ENOSPC : EIO) : 0;
}

static int refuse_io(void)
{
    return effect == BROKEN && strikes() ? EIO : 0;
}

/* Return how many bytes of a transfer are to be let through: all, half of its blocks, or part of a block. Once. */
static size_t cut(size_t size)
{
    int is_cut = effect == SHORT ? size >= 2 * BLOCK_SIZE : effect == TORN && size >= BLOCK_SIZE;
    if (is_cut && strikes()) {
        atomic_store(&is_armed, 0);
        size_t half = size / 2 / BLOCK_SIZE * BLOCK_SIZE;
        return effect == SHORT ? half : half + SECTOR_SIZE;
    }
    return size;
}

static void wait_for_go(void)
{
    const struct timespec pause = {0, POLL_NANOSECONDS};
    while (go && access(go, F_OK) != 0)
        nanosleep(&pause, NULL);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(number)     \
    do {                 \
        int why = (number); \
        if (why) {       \
            errno = why; \
            return -1;   \
        }                \
    } while (0)

ssize_t write(int fd, const void *data, size_t size)
{
    if (fd != STDOUT_FILENO) {
        if (is_file_below(fd))
            FAIL(refuse_write());
        return NEXT(write)(fd, data, size);
    }
    ssize_t written = NEXT(write)(fd, data, size);
    if (event && memmem(data, size, event, strlen(event))) {
        event = NULL;
        wait_for_go();
        atomic_store(&is_armed, 1);
    }
    return written;
}

#define PWRITE(name, offset_type)                                            \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) \
    {                                                                        \
        if (is_file_below(fd)) {                                             \
            FAIL(refuse_write());                                            \
            size = cut(size);                                                \
        }                                                                    \
        return NEXT(name)(fd, data, size, offset);                           \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

/* Python reads with the second version where the C library has it. */
#define PREADV2(name, offset_type)                                                             \
    ssize_t name(int fd, const struct iovec *pieces, int count, offset_type offset, int flags) \
    {                                                                                          \
        if (count != 1 || !is_file_below(fd))                                                  \
            return NEXT(name)(fd, pieces, count, offset, flags);                               \
        FAIL(refuse_io());                                                                     \
        ssize_t left = (ssize_t)cut(pieces->iov_len);                                          \
        ssize_t got = NEXT(name)(fd, pieces, 1, offset, flags);                                \
        return got > left ? left : got;                                                        \
    }
PREADV2(preadv2, off_t)
PREADV2(preadv64v2, off64_t)

#define ON_FILE(name, refuse, parameters, arguments) \
    int name parameters                              \
    {                                                \
        if (is_file_below(fd))                       \
            FAIL(refuse());                          \
        return NEXT(name) arguments;                 \
    }
ON_FILE(fsync, refuse_write, (int fd), (fd))
ON_FILE(fdatasync, refuse_write, (int fd), (fd))
ON_FILE(ftruncate, refuse_io, (int fd, off_t size), (fd, size))
ON_FILE(ftruncate64, refuse_io, (int fd, off64_t size), (fd, size))
ON_FILE(fallocate, refuse_room, (int fd, int mode, off_t offset, off_t size), (fd, mode, offset, size))
ON_FILE(fallocate64, refuse_room, (int fd, int mode, off64_t offset, off64_t size), (fd, mode, offset, size))

#define ON_PATH(name, parameters, arguments, path) \
    int name parameters                            \
    {                                              \
        if (is_below(path))                        \
            FAIL(refuse_write());                  \
        return NEXT(name) arguments;               \
    }
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode), path)
ON_PATH(rename, (const char *from, const char *to), (from, to), to)
ON_PATH(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), to)
ON_PATH(renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags), to)
ON_PATH(link, (const char *from, const char *to), (from, to), to)
ON_PATH(linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), to)

#define OPEN(name)                                      \
    int name(const char *path, int flags, ...)          \
    {                                                   \
        va_list rest;                                   \
        va_start(rest, flags);                          \
        int mode = flags & O_CREAT ? va_arg(rest, int) : 0; \
        va_end(rest);                                   \
        if (flags & O_CREAT && is_below(path))          \
            FAIL(refuse_write());                       \
        return NEXT(name)(path, flags, mode);           \
    }
OPEN(open)
OPEN(open64)
