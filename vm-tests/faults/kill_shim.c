/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Preloaded into a command and all that it starts: counts what they do to files and block devices
 * (writes, flushes, new names), and ends them with SIGKILL ahead of call number N, or
 * stops them there. See kill.py.
 *
 * strace was rejected: its "when=" counts for each thread, so that no number stands for a moment of
 * the whole run, and it kills one process where a machine's out-of-memory killer takes a group.
 *
 * The file that MM_KILL_FILE names: struct shared, then a letter for each call.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct shared {
    uint64_t count;     /* calls so far */
    uint64_t at;        /* kill ahead of this one (from 1); 0: never */
    uint64_t mode;      /* 0: kill the first process, 1: the process group, 2: stop the group */
    uint64_t main_pid;
    uint64_t room;      /* letters that fit */
    uint64_t target_device, target_inode;
    char kinds[];
};

static struct shared *shared;

__attribute__((constructor)) static void start(void)
{
    const char *name = getenv("MM_KILL_FILE");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    struct stat status;
    if (fd < 0)
        return;
    if (fstat(fd, &status) == 0) {
        void *map = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) {
            uint64_t nobody = 0;
            shared = map;
            __atomic_compare_exchange_n(&shared->main_pid, &nobody, (uint64_t)getpid(), 0,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        }
    }
    close(fd);
}

static void count(char kind)
{
    if (shared == NULL)
        return;
    uint64_t number = __atomic_add_fetch(&shared->count, 1, __ATOMIC_SEQ_CST);
    if (number <= shared->room)
        shared->kinds[number - 1] = kind;
    if (number != shared->at)
        return;
    if (shared->mode == 2) {
        kill(0, SIGSTOP);
        return;
    }
    if (shared->mode == 1)
        kill(0, SIGKILL);
    kill((pid_t)shared->main_pid, SIGKILL);
}

/* What is said on standard output and error is not what the command does. The letters of
 * a device, or of the file that is the target, are capitals. */
static void count_fd(char kind, int fd)
{
    int kept = errno;
    struct stat status;
    if (fd <= 2 || fstat(fd, &status) != 0)
        errno = kept;
    else if (S_ISBLK(status.st_mode) || (status.st_dev == shared->target_device &&
                                         status.st_ino == shared->target_inode))
        count((char)(kind - 'a' + 'A'));
    else if (S_ISREG(status.st_mode))
        count(kind);
}

#define NEXT(name) \
    static __typeof__(name) *next; \
    if (next == NULL) \
        next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define COUNT_FD(kind, fd) \
    if (shared != NULL) \
        count_fd(kind, fd)

ssize_t write(int fd, const void *data, size_t size)
{
    NEXT(write);
    COUNT_FD('w', fd);
    return next(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    NEXT(pwrite);
    COUNT_FD('w', fd);
    return next(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    NEXT(pwrite64);
    COUNT_FD('w', fd);
    return next(fd, data, size, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int part_count)
{
    NEXT(writev);
    COUNT_FD('w', fd);
    return next(fd, parts, part_count);
}

ssize_t pwritev(int fd, const struct iovec *parts, int part_count, off_t offset)
{
    NEXT(pwritev);
    COUNT_FD('w', fd);
    return next(fd, parts, part_count, offset);
}

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t size,
                        unsigned int flags)
{
    NEXT(copy_file_range);
    COUNT_FD('w', out);
    return next(in, in_at, out, out_at, size, flags);
}

int ftruncate(int fd, off_t size)
{
    NEXT(ftruncate);
    COUNT_FD('t', fd);
    return next(fd, size);
}

int ftruncate64(int fd, off64_t size)
{
    NEXT(ftruncate64);
    COUNT_FD('t', fd);
    return next(fd, size);
}

int fsync(int fd)
{
    NEXT(fsync);
    COUNT_FD('f', fd);
    return next(fd);
}

int fdatasync(int fd)
{
    NEXT(fdatasync);
    COUNT_FD('f', fd);
    return next(fd);
}

int rename(const char *from, const char *to)
{
    NEXT(rename);
    count('n');
    return next(from, to);
}

int link(const char *from, const char *to)
{
    NEXT(link);
    count('n');
    return next(from, to);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    NEXT(linkat);
    count('n');
    return next(from_folder, from, to_folder, to, flags);
}

int unlink(const char *name)
{
    NEXT(unlink);
    count('u');
    return next(name);
}
