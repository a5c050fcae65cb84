/* The floor: what reading alone costs. One thread opens each directory below a path and reads 4 KiB of each regular
 * file in it, by openat, so that no path is walked twice; nothing is kept and nothing understood.
 *
 *     floor PATH [NAME]      only files of that name
 */
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static char buffer[4096];
    long directories = 0, files = 0;
    if (argc < 2)
        errx(2, "floor PATH [NAME]");
    const char *only = argc > 2 ? argv[2] : NULL;
    DIR *root = opendir(argv[1]);
    if (!root)
        err(1, "%s", argv[1]);
    for (struct dirent *entry; (entry = readdir(root));) {
        if (entry->d_name[0] == '.' || entry->d_type != DT_DIR)
            continue;
        int at = openat(dirfd(root), entry->d_name, O_RDONLY | O_DIRECTORY);
        DIR *directory = at < 0 ? NULL : fdopendir(at);
        if (!directory)
            err(1, "%s", entry->d_name);
        directories++;
        for (struct dirent *file; (file = readdir(directory));) {
            if (file->d_type != DT_REG || (only && strcmp(file->d_name, only)))
                continue;
            int fd = openat(at, file->d_name, O_RDONLY);
            if (fd < 0 || read(fd, buffer, sizeof buffer) < 0)
                err(1, "%s/%s", entry->d_name, file->d_name);
            close(fd);
            files++;
        }
        closedir(directory);
    }
    closedir(root);
    printf("%ld directories, %ld files\n", directories, files);
    return 0;
}
