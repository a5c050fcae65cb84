/* Slow storage, for LD_PRELOAD: 1 ms is added to each open and each read, as on NFS, or SLOW_MS; with SLOW_JITTER
 * anything up to that. Opening a directory counts twice, once for the open and once for the listing, which the C library
 * reads by calls that cannot be taken from it.
 * At the end the calls are counted into the file that SLOW_COUNTS names, so that it shows that they came by here.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static atomic_long opens, reads, directories, in_flight, most_in_flight;

static void wait_for(long calls)
{
    const char *ms = getenv("SLOW_MS");
    long wait = calls * (ms ? atol(ms) : 1) * 1000000;
    if (getenv("SLOW_JITTER"))
        wait = random() % (wait + 1);
    long now = atomic_fetch_add(&in_flight, 1) + 1;
    long most = atomic_load(&most_in_flight);
    while (now > most && !atomic_compare_exchange_weak(&most_in_flight, &most, now))
        ;
    struct timespec time = { wait / 1000000000, wait % 1000000000 };
    nanosleep(&time, NULL);
    atomic_fetch_sub(&in_flight, 1);
}

#define NEXT(type, name, parameters) \
    static type(*next) parameters; \
    if (!next) \
        next = (type(*) parameters)dlsym(RTLD_NEXT, name);

#define MODE(last) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, last); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        NEXT(int, #name, (const char *, int, ...)) \
        MODE(flags) \
        opens++; \
        wait_for(1); \
        return next(path, flags, mode); \
    }

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) \
    { \
        NEXT(int, #name, (int, const char *, int, ...)) \
        MODE(flags) \
        opens++; \
        wait_for(1); \
        return next(at, path, flags, mode); \
    }

#define PREAD(name) \
    ssize_t name(int fd, void *buffer, size_t size, off_t offset) \
    { \
        NEXT(ssize_t, #name, (int, void *, size_t, off_t)) \
        reads++; \
        wait_for(1); \
        return next(fd, buffer, size, offset); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
PREAD(pread)
PREAD(pread64)

ssize_t read(int fd, void *buffer, size_t size)
{
    NEXT(ssize_t, "read", (int, void *, size_t))
    reads++;
    wait_for(1);
    return next(fd, buffer, size);
}

DIR *opendir(const char *path)
{
    NEXT(DIR *, "opendir", (const char *))
    directories++;
    wait_for(2);
    return next(path);
}

/* After an open of its own, which was delayed already. */
DIR *fdopendir(int fd)
{
    NEXT(DIR *, "fdopendir", (int))
    directories++;
    wait_for(1);
    return next(fd);
}

__attribute__((destructor)) static void tell(void)
{
    const char *path = getenv("SLOW_COUNTS");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file)
        return;
    fprintf(file, "%ld %ld %ld %ld\n", opens, reads, directories, most_in_flight);
    fclose(file);
}
