/* A filesystem that frees space some time after an unlink, for LD_PRELOAD: LATE_AVAILABLE bytes are free at first, and
 * LATE_BYTES more for each unlink, one after the other, every 0.7 seconds from the last unlink on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <time.h>

static atomic_long unlinks, last;

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

int unlinkat(int directory, const char *name, int flags)
{
    int (*next)(int, const char *, int) = (int (*)(int, const char *, int))dlsym(RTLD_NEXT, "unlinkat");
    unlinks++;
    last = now();
    return next(directory, name, flags);
}

static int changed(struct statvfs *space)
{
    long done = (now() - last) / 700;
    long freed = done < unlinks ? done : unlinks;
    space->f_bavail = (atol(getenv("LATE_AVAILABLE")) + freed * atol(getenv("LATE_BYTES"))) / space->f_frsize;
    return 0;
}

int statvfs(const char *path, struct statvfs *space)
{
    int (*next)(const char *, struct statvfs *) = (int (*)(const char *, struct statvfs *))dlsym(RTLD_NEXT, "statvfs");
    int result = next(path, space);
    return result ? result : changed(space);
}

int fstatvfs(int file, struct statvfs *space)
{
    int (*next)(int, struct statvfs *) = (int (*)(int, struct statvfs *))dlsym(RTLD_NEXT, "fstatvfs");
    int result = next(file, space);
    return result ? result : changed(space);
}
