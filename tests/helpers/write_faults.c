/* Preloaded into a process, lets what it writes below a folder fail, each write point once.
 *
 * A write point is an operation on a file, whose name has its numbers and random letters taken out: "fsync
 * /arms/sso-seed#/.ledger.json". With faults_begin the next point that has not failed before fails, with the given
 * error; with `lasting` so does all that is written afterwards, as on a disk that stays full. A "short" write takes half,
 * and what follows on the same file fails.
 *
 * cc -shared -fPIC -o write_faults.so write_faults.c -ldl
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define POINTS 4096

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static char *points[POINTS];
static int known;
static int number, lasting; /* of this attempt; number 0: nothing fails */
static regex_t wanted;
static char hit[2 * PATH_MAX], hit_path[PATH_MAX];
static int short_fd = -1; /* has taken half */

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* pattern: of the points that fail. */
void faults_begin(const char *folder, int error, int stays, const char *pattern) {
    pthread_mutex_lock(&mutex);
    if (!realpath(folder, root) || regcomp(&wanted, pattern, REG_EXTENDED | REG_NOSUB)) abort();
    number = error;
    lasting = stays;
    hit[0] = hit_path[0] = 0;
    short_fd = -1;
    pthread_mutex_unlock(&mutex);
}

void faults_end(void) { number = 0; }
void faults_forget(void) { known = 0; }
const char *faults_hit(void) { return hit; }
const char *faults_path(void) { return hit_path; }

/* Takes out of a name what differs from one attempt to the next. */
static void normalise(const char *path, char *into) {
    char name[PATH_MAX];
    char *end = into;
    while (*path) {
        size_t length = strcspn(path, "/");
        memcpy(name, path, length);
        name[length] = 0;
        path += length;
        if (!strncmp(name, ".tmp", 4)) name[length = 4] = 0; /* safetensors: .tmpAbCdEf */
        for (char *letter = name; *letter; letter++) {
            if (!isdigit((unsigned char)*letter)) *end++ = *letter;
            else if (end == into || end[-1] != '#') *end++ = '#';
        }
        if (*path == '/') *end++ = *path++;
    }
    *end = 0;
}

/* Whether this operation fails now; sets errno. */
static int fails(const char *operation, const char *path) {
    char point[2 * PATH_MAX], plain[PATH_MAX];
    size_t length = strlen(root);
    int failing = 0;
    if (!number || strncmp(path, root, length)) return 0;
    pthread_mutex_lock(&mutex);
    if (hit[0]) {
        failing = lasting;
    } else {
        normalise(path + length, plain);
        snprintf(point, sizeof point, "%s %s", operation, plain);
        int place = 0;
        while (place < known && strcmp(points[place], point)) place++;
        if (place == known && known < POINTS && !regexec(&wanted, point, 0, NULL, 0)) {
            points[known++] = strdup(point);
            strcpy(hit, point);
            snprintf(hit_path, sizeof hit_path, "%s", path);
            failing = 1;
        }
    }
    pthread_mutex_unlock(&mutex);
    if (failing) errno = number;
    return failing;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static void absolute(const char *path, char *into) {
    if (path[0] == '/') snprintf(into, PATH_MAX, "%s", path);
    else if (getcwd(into, PATH_MAX)) {
        size_t length = strlen(into);
        snprintf(into + length, PATH_MAX - length, "/%s", path);
    }
}

static int fails_at(const char *operation, const char *path) {
    char full[PATH_MAX];
    if (!number) return 0;
    absolute(path, full);
    return fails(operation, full);
}

static int fails_on(const char *operation, int fd) {
    char path[PATH_MAX];
    return number && path_of(fd, path) && fails(operation, path);
}

/* -1: the write fails; else how much of it is taken. */
static ssize_t taken(int fd, size_t count) {
    struct stat status;
    if (!number) return count;
    char path[PATH_MAX];
    if (fd == short_fd && path_of(fd, path)) {
        short_fd = -1;
        if (!strcmp(path, hit_path)) {
            errno = number;
            return -1;
        }
    }
    int empty = !fstat(fd, &status) && status.st_size == 0;
    if (fails_on(empty ? "write" : "write-more", fd)) return -1;
    int error = errno;
    if (count > 1 && fails_on(empty ? "short" : "short-more", fd)) {
        if (!lasting) short_fd = fd;
        errno = error;
        return count / 2;
    }
    errno = error;
    return count;
}

#define WRITES(flags) (((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0)
#define MODE(flags, last) \
    mode_t mode = 0; \
    if ((flags) & O_CREAT) { \
        va_list rest; \
        va_start(rest, last); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        MODE(flags, flags) \
        if (WRITES(flags) && fails_at("open", path)) return -1; \
        return real(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        MODE(flags, flags) \
        if (WRITES(flags) && fails_at("open", path)) return -1; \
        return real(folder, path, flags, mode); \
    }
#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(FILE *, #name, const char *, const char *); \
        if (strpbrk(mode, "wa+") && fails_at("open", path)) return NULL; \
        return real(path, mode); \
    }
#define CREAT(name) \
    int name(const char *path, mode_t mode) { \
        REAL(int, #name, const char *, mode_t); \
        return fails_at("open", path) ? -1 : real(path, mode); \
    }
#define SYNC(name) \
    int name(int fd) { \
        REAL(int, #name, int); \
        return fails_on("fsync", fd) ? -1 : real(fd); \
    }
#define TRUNCATE(name, type) \
    int name(int fd, type length) { \
        REAL(int, #name, int, type); \
        return fails_on("truncate", fd) ? -1 : real(fd, length); \
    }
#define PWRITE(name, type) \
    ssize_t name(int fd, const void *data, size_t count, type offset) { \
        REAL(ssize_t, #name, int, const void *, size_t, type); \
        ssize_t some = taken(fd, count); \
        return some < 0 ? -1 : real(fd, data, some, offset); \
    }
#define SENDFILE(name, type) \
    ssize_t name(int to, int from, type *offset, size_t count) { \
        REAL(ssize_t, #name, int, int, type *, size_t); \
        return fails_on("sendfile", to) ? -1 : real(to, from, offset, count); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)
CREAT(creat)
CREAT(creat64)
SYNC(fsync)
SYNC(fdatasync)
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t write(int fd, const void *data, size_t count) {
    REAL(ssize_t, "write", int, const void *, size_t);
    ssize_t some = taken(fd, count);
    return some < 0 ? -1 : real(fd, data, some);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    size_t length = 0;
    for (int part = 0; part < count; part++) length += parts[part].iov_len;
    ssize_t some = taken(fd, length);
    if (some < 0) return -1;
    if ((size_t)some == length) return real(fd, parts, count);
    struct iovec first = {parts[0].iov_base, parts[0].iov_len < (size_t)some ? parts[0].iov_len : (size_t)some};
    return real(fd, &first, 1);
}

ssize_t copy_file_range(int from, off64_t *read, int to, off64_t *written, size_t count, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    return fails_on("copy", to) ? -1 : real(from, read, to, written, count, flags);
}

int mkdir(const char *path, mode_t mode) {
    struct stat status;
    REAL(int, "mkdir", const char *, mode_t);
    return stat(path, &status) && fails_at("mkdir", path) ? -1 : real(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    return fails_at("mkdir", path) ? -1 : real(folder, path, mode);
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return fails_at("rename", to) ? -1 : real(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return fails_at("rename", to) ? -1 : real(from_folder, from, to_folder, to);
}
