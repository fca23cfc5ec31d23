/* probe DIR [DISK]: how long do calls take while something else loads the filesystem? Every 20 ms a 4 KiB
 * pwrite and fdatasync, a pread that is checked, and a stat, each in a thread of its own, so that
 * one that waits does not hide another. SIGUSR1 marks the moment of the fault; SIGINT or SIGTERM
 * ends it: "BEFORE AFTER", the longest call in seconds before and after the mark. A failed call or
 * a wrong byte is told at once, exit status 1. A call that is under way at the end counts. With a
 * directory DISK on the disk below, the same pwrite and fdatasync is done there and told too, not
 * counted: whoever wonders about a pause sees whether the disk itself had it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, BLOCKS = 256, PERIOD_NS = 20000000, COUNTED = 3, KINDS = 4 };

struct probe {
    char write_path[4096], read_path[4096], disk_path[4096];
    int write_fd, read_fd, disk_fd;
    atomic_llong mark;
    atomic_int marked, failed;
    struct kind {
        struct probe *probe;
        const char *name;
        int (*once)(struct probe *p, unsigned round);
        atomic_llong since; /* ns, 0: none under way */
        atomic_llong longest[2], at[2];
    } kind[KINDS];
};

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void fill(unsigned char *block, unsigned number)
{
    for (unsigned i = 0; i < BLOCK; i++) {
        block[i] = (unsigned char)(number * 31 + i * 7 + (i >> 8));
    }
}

static int write_block(int fd, unsigned round)
{
    unsigned char block[BLOCK];
    fill(block, round);
    ssize_t n = pwrite(fd, block, BLOCK, (off_t)(round % BLOCKS) * BLOCK);
    return n == BLOCK && fdatasync(fd) == 0 ? 0 : -1;
}

static int once_write(struct probe *p, unsigned round)
{
    return write_block(p->write_fd, round);
}

static int once_disk(struct probe *p, unsigned round)
{
    return write_block(p->disk_fd, round);
}

static int once_read(struct probe *p, unsigned round)
{
    unsigned char block[BLOCK], right[BLOCK];
    unsigned at = round * 17 % BLOCKS;
    /* What the kernel has cached would tell nothing. */
    (void)posix_fadvise(p->read_fd, (off_t)at * BLOCK, BLOCK, POSIX_FADV_DONTNEED);
    if (pread(p->read_fd, block, BLOCK, (off_t)at * BLOCK) != BLOCK) {
        return -1;
    }
    fill(right, at);
    if (memcmp(block, right, BLOCK) != 0) {
        errno = EILSEQ;
        return -1;
    }
    return 0;
}

static int once_stat(struct probe *p, unsigned round)
{
    struct stat st;
    (void)round;
    return stat(p->read_path, &st);
}

static void count(struct kind *k, long long since)
{
    const int after = atomic_load(&k->probe->marked);
    long long took = now_ns() - since;
    if (took > atomic_load(&k->longest[after])) {
        atomic_store(&k->longest[after], took);
        atomic_store(&k->at[after], since);
    }
}

static void *run(void *arg)
{
    struct kind *k = arg;
    for (unsigned round = 0; atomic_load(&k->probe->failed) == 0; round++) {
        long long since = now_ns();
        atomic_store(&k->since, since);
        if (k->once(k->probe, round) != 0) {
            fprintf(stderr, "probe: %s failed in round %u: %s\n", k->name, round, strerror(errno));
            atomic_store(&k->probe->failed, 1);
            kill(getpid(), SIGTERM);
            return NULL;
        }
        count(k, since);
        atomic_store(&k->since, 0);
        struct timespec pause = {.tv_nsec = PERIOD_NS};
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static int prepare(struct probe *p, const char *dir, const char *disk)
{
    p->disk_fd = -1;
    if (disk != NULL) {
        snprintf(p->disk_path, sizeof p->disk_path, "%s/probe.disk", disk);
        p->disk_fd = open(p->disk_path, O_RDWR | O_CREAT, 0644);
        if (p->disk_fd < 0) {
            return -1;
        }
    }
    snprintf(p->write_path, sizeof p->write_path, "%s/probe.write", dir);
    snprintf(p->read_path, sizeof p->read_path, "%s/probe.read", dir);
    p->write_fd = open(p->write_path, O_RDWR | O_CREAT, 0644);
    p->read_fd = open(p->read_path, O_RDWR | O_CREAT, 0644);
    if (p->write_fd < 0 || p->read_fd < 0) {
        return -1;
    }
    for (unsigned i = 0; i < BLOCKS; i++) {
        unsigned char block[BLOCK];
        fill(block, i);
        if (pwrite(p->read_fd, block, BLOCK, (off_t)i * BLOCK) != BLOCK) {
            return -1;
        }
    }
    return fsync(p->read_fd);
}

int main(int argc, char **argv)
{
    static struct probe p;
    bool usage = argc < 2 || argc > 3;
    if (usage || prepare(&p, argv[1], argc == 3 ? argv[2] : NULL) != 0) {
        fprintf(stderr, "probe: %s: %s\n", usage ? "usage: probe DIR [DISK]" : argv[1],
                strerror(errno));
        return 1;
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    p.kind[0] = (struct kind){.probe = &p, .name = "pwrite and fdatasync", .once = once_write};
    p.kind[1] = (struct kind){.probe = &p, .name = "pread", .once = once_read};
    p.kind[2] = (struct kind){.probe = &p, .name = "stat", .once = once_stat};
    p.kind[3] = (struct kind){.probe = &p, .name = "fdatasync of the disk", .once = once_disk};
    const int kinds = p.disk_fd < 0 ? COUNTED : KINDS;
    for (int i = 0; i < kinds; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, run, &p.kind[i]) != 0) {
            return 1;
        }
    }
    for (int signal; sigwait(&set, &signal) == 0 && signal == SIGUSR1;) {
        atomic_store(&p.mark, now_ns());
        atomic_store(&p.marked, 1);
    }
    double longest[2] = {0, 0};
    for (int i = 0; i < kinds; i++) {
        struct kind *k = &p.kind[i];
        long long since = atomic_load(&k->since);
        if (since != 0) {
            count(k, since);
        }
        for (int j = 0; j < 2; j++) {
            double seconds = (double)atomic_load(&k->longest[j]) / 1e9;
            double at = (double)(atomic_load(&k->at[j]) - atomic_load(&p.mark)) / 1e9;
            fprintf(stderr, "probe: %s: longest %s the mark %.3f s, begun at %+.3f s\n", k->name,
                    j == 0 ? "before" : "after", seconds, at);
            if (i < COUNTED) {
                longest[j] = seconds > longest[j] ? seconds : longest[j];
            }
        }
    }
    printf("%.3f %.3f\n", longest[0], longest[1]);
    fflush(stdout);
    _exit(atomic_load(&p.failed) != 0);
}
