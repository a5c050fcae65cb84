/* Slow storage, for LD_PRELOAD: 1 ms is added to each open and each read, as on NFS, or SLOW_MS; with SLOW_JITTER
 * anything up to that. Opening a directory waits twice, once for the open and once for the listing, whose calls are not made
 * through the C library.
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
#include <sys/statfs.h>
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

static void opened(int flags)
{
    long is_listed = flags & O_DIRECTORY && !(flags & O_PATH);
    opens++;
    directories += is_listed;
    wait_for(1 + is_listed);
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
        opened(flags); \
        return next(path, flags, mode); \
    }

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) \
    { \
        NEXT(int, #name, (int, const char *, int, ...)) \
        MODE(flags) \
        opened(flags); \
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

/* With SLOW_NFS every filesystem is NFS. */
#define STATFS(name, type) \
    int name(const char *path, struct type *stat) \
    { \
        NEXT(int, #name, (const char *, struct type *)) \
        int result = next(path, stat); \
        if (getenv("SLOW_NFS")) \
            stat->f_type = 0x6969; \
        return result; \
    }

STATFS(statfs, statfs)
STATFS(statfs64, statfs64)

__attribute__((destructor)) static void tell(void)
{
    const char *path = getenv("SLOW_COUNTS");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file)
        return;
    fprintf(file, "%ld %ld %ld %ld\n", opens, reads, directories, most_in_flight);
    fclose(file);
}
