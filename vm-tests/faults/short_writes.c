/* SPDX-License-Identifier: GPL-3.0-or-later */
/* For LD_PRELOAD: writes at an offset take fewer bytes than they are given, now and then, by a
 * seed in MM_SHORT_SEED; whole sectors, as a device has it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static unsigned long long state;

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
