/* SPDX-License-Identifier: GPL-3.0-or-later */
/* For LD_PRELOAD: writes at an offset take fewer bytes than they are given, now and then, by a
 * seed in MM_SHORT_SEED; whole sectors, as a device has it. With MM_SHORT_ALL so do those that have
 * no offset. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static unsigned long long state;

/* A byte for each write that was cut, in the file MM_SHORT_LOG. */
static void note(void)
{
    const char *path = getenv("MM_SHORT_LOG");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        if (write(fd, ".", 1) != 1)
            abort();
        close(fd);
    }
}

static size_t cut(size_t size)
{
    if (state == 0) {
        const char *seed = getenv("MM_SHORT_SEED");
        state = (seed ? strtoull(seed, NULL, 10) : 1) * 2654435761u + 1;
    }
    state = state * 6364136223846793005u + 1442695040888963407u;
    unsigned long long drawn = state >> 33;
    size_t sectors = size / 4096;
    if (sectors < 2 || drawn % 3 == 0)
        return size;
    note();
    return (1 + drawn / 3 % (sectors - 1)) * 4096;
}

typedef ssize_t (*pwrite_type)(int, const void *, size_t, off_t);

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    pwrite_type next = (pwrite_type)dlsym(RTLD_NEXT, "pwrite");
    return next(fd, data, cut(size), offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    pwrite_type next = (pwrite_type)dlsym(RTLD_NEXT, "pwrite64");
    return next(fd, data, cut(size), offset);
}

typedef ssize_t (*write_type)(int, const void *, size_t);

ssize_t write(int fd, const void *data, size_t size)
{
    write_type next = (write_type)dlsym(RTLD_NEXT, "write");
    return next(fd, data, getenv("MM_SHORT_ALL") ? cut(size) : size);
}
