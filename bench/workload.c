/* workload: one measurement on one directory; prints one number.
 *
 *   workload seqwrite DIR MIB        MB/s of a new file with fsync at the end, 1 MiB writes
 *   workload seqread DIR MIB         MB/s of that file, 1 MiB reads
 *   workload randread DIR SECONDS    4 KiB preads per second in that file
 *   workload randwrite DIR SECONDS   4 KiB pwrite + fdatasync per second in that file
 *   workload create|stat|rename|unlink DIR FILES THREADS     calls per second over FILES files, one directory a thread
 *   workload probe DIR SECONDS       every 20 ms a pwrite+fdatasync, a pread and a stat: the longest, in ms
 *
 * A failed call is one line on stderr and exit status 1. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, BLOCK = 4096, THREADS_MAX = 64 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
    fprintf(stderr, "workload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 20;
}

static int open_big(const char *dir, int flags)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/big", dir);
    int fd = open(path, flags, 0644);
    if (fd < 0) {
        die(path);
    }
    return fd;
}

static void fill(char *buf, size_t n, uint64_t seed)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t v = next_random(&seed);
        memcpy(buf + i, &v, 8);
    }
}

static double seqwrite(const char *dir, long mib)
{
    char *buf = malloc(MIB);
    fill(buf, MIB, 1);
    int fd = open_big(dir, O_CREAT | O_TRUNC | O_WRONLY);
    double start = now();
    for (long i = 0; i < mib; i++) {
        memcpy(buf, &i, sizeof i);
        if (write(fd, buf, MIB) != MIB) {
            die("write");
        }
    }
    if (fsync(fd) != 0 || close(fd) != 0) {
        die("fsync");
    }
    double rate = (double)mib * MIB / 1e6 / (now() - start);
    free(buf);
    return rate;
}

static double seqread(const char *dir, long mib)
{
    char *buf = malloc(MIB);
    int fd = open_big(dir, O_RDONLY);
    double start = now();
    for (long i = 0; i < mib; i++) {
        if (read(fd, buf, MIB) != MIB) {
            die("read");
        }
        if (memcmp(buf, &i, sizeof i) != 0) {
            errno = EIO;
            die("content is wrong");
        }
    }
    double rate = (double)mib * MIB / 1e6 / (now() - start);
    close(fd);
    free(buf);
    return rate;
}

static double randio(const char *dir, double seconds, int writing)
{
    char buf[BLOCK];
    struct stat st;
    uint64_t seed = 42;
    int fd = open_big(dir, writing ? O_RDWR : O_RDONLY);
    if (fstat(fd, &st) != 0 || st.st_size < BLOCK) {
        die("fstat");
    }
    long n = 0;
    fill(buf, sizeof buf, 7);
    double start = now(), end = start + seconds;
    while (now() < end) {
        off_t at = (off_t)(next_random(&seed) % ((uint64_t)st.st_size / BLOCK)) * BLOCK;
        if (writing) {
            memcpy(buf, &at, sizeof at);
            /* The first 8 bytes of each MiB are what seqread checks: leave them. */
            if (at % MIB == 0) {
                continue;
            }
            if (pwrite(fd, buf, BLOCK, at) != BLOCK || fdatasync(fd) != 0) {
                die("pwrite, fdatasync");
            }
        } else if (pread(fd, buf, BLOCK, at) != BLOCK) {
            die("pread");
        }
        n++;
    }
    double rate = (double)n / (now() - start);
    close(fd);
    return rate;
}

struct job {
    const char *what, *dir;
    long first, files;
    int thread;
};

static void one_file(const struct job *j, long i)
{
    char a[4096], b[4096];
    struct stat st;
    snprintf(a, sizeof a, "%s/t%d/f%06ld", j->dir, j->thread, i);
    snprintf(b, sizeof b, "%s/t%d/g%06ld", j->dir, j->thread, i);
    if (strcmp(j->what, "create") == 0) {
        int fd = open(a, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0 || close(fd) != 0) {
            die(a);
        }
    } else if (strcmp(j->what, "stat") == 0) {
        if (stat(a, &st) != 0) {
            die(a);
        }
    } else if (strcmp(j->what, "rename") == 0) {
        if (rename(a, b) != 0) {
            die(a);
        }
    } else if (unlink(b) != 0) {
        die(b);
    }
}

static void *run_job(void *arg)
{
    const struct job *j = arg;
    for (long i = j->first; i < j->first + j->files; i++) {
        one_file(j, i);
    }
    return NULL;
}

static double names(const char *what, const char *dir, long files, int threads)
{
    struct job job[THREADS_MAX];
    pthread_t id[THREADS_MAX];
    char path[4096];
    if (threads < 1 || threads > THREADS_MAX) {
        errno = EINVAL;
        die("threads");
    }
    for (int i = 0; i < threads; i++) {
        snprintf(path, sizeof path, "%s/t%d", dir, i);
        if (mkdir(path, 0755) != 0 && errno != EEXIST) {
            die(path);
        }
    }
    double start = now();
    for (int i = 0; i < threads; i++) {
        job[i] = (struct job){what, dir, 0, files / threads, i};
        if (pthread_create(&id[i], NULL, run_job, &job[i]) != 0) {
            die("pthread_create");
        }
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(id[i], NULL);
    }
    return (double)(files / threads * threads) / (now() - start);
}

static double timed(double *longest, double start)
{
    double t = now();
    if (t - start > *longest) {
        *longest = t - start;
    }
    return t;
}

static double probe(const char *dir, double seconds)
{
    char path[4096], buf[BLOCK] = {0};
    struct stat st;
    double longest = 0;
    snprintf(path, sizeof path, "%s/probe", dir);
    int fd = open(path, O_CREAT | O_RDWR, 0644);
    if (fd < 0) {
        die(path);
    }
    double end = now() + seconds;
    for (long i = 0; now() < end; i++) {
        memcpy(buf, &i, sizeof i);
        double t = now();
        if (pwrite(fd, buf, BLOCK, i % 16 * BLOCK) != BLOCK || fdatasync(fd) != 0) {
            die("probe: pwrite, fdatasync");
        }
        t = timed(&longest, t);
        if (pread(fd, buf, BLOCK, i % 16 * BLOCK) != BLOCK || memcmp(buf, &i, sizeof i) != 0) {
            die("probe: pread");
        }
        t = timed(&longest, t);
        if (stat(path, &st) != 0) {
            die("probe: stat");
        }
        (void)timed(&longest, t);
        usleep(20000);
    }
    close(fd);
    return longest * 1e3;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: workload WHAT DIR N [THREADS]; see the top of workload.c\n");
        return 2;
    }
    const char *what = argv[1], *dir = argv[2];
    long n = strtol(argv[3], NULL, 10);
    double figure;
    if (strcmp(what, "seqwrite") == 0) {
        figure = seqwrite(dir, n);
    } else if (strcmp(what, "seqread") == 0) {
        figure = seqread(dir, n);
    } else if (strcmp(what, "randread") == 0 || strcmp(what, "randwrite") == 0) {
        figure = randio(dir, (double)n, strcmp(what, "randwrite") == 0);
    } else if (strcmp(what, "probe") == 0) {
        figure = probe(dir, (double)n);
    } else {
        figure = names(what, dir, n, argc > 4 ? (int)strtol(argv[4], NULL, 10) : 1);
    }
    printf("%.2f\n", figure);
    return 0;
}
