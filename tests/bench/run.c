/* Runs a command with its output thrown away and says what it took: a process this small is started fast, and its own
 * memory does not show in the child's peak, as that of a larger parent would.
 *
 *     run COMMAND...         prints "wall_ns cpu_us peak_kib exit_status"
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        errx(2, "run COMMAND...");
    long long start = now();
    pid_t child = fork();
    if (child < 0)
        err(2, "fork");
    if (child == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        execvp(argv[1], argv + 1);
        err(127, "%s", argv[1]);
    }
    int status;
    struct rusage usage;
    if (wait4(child, &status, 0, &usage) < 0)
        err(2, "wait4");
    long long end = now();
    long long cpu = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL + usage.ru_utime.tv_usec
        + usage.ru_stime.tv_usec;
    printf("%lld %lld %ld %d\n", end - start, cpu, usage.ru_maxrss, WIFEXITED(status) ? WEXITSTATUS(status) : 128);
    return 0;
}
