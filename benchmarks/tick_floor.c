/* The least that a look can cost: tick_floor spawn PROGRAMS WORKERS | tick_floor pool WORKERS | tick_floor look TIMES PID...

   spawn  forks PROGRAMS managers with WORKERS workers each, which wait for a connection that never comes; prints the
          managers' pids, and ends all with its stdin.
   pool   is such a manager itself.
   look   reads each manager's list of children and each child's statm, TIMES over; prints ms of CPU for one time. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static void sleep_for_ever(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
}

/* A socket with an address that the kernel chooses. */
static int listening(void) {
    struct sockaddr address = { .sa_family = AF_UNIX };
    int own = socket(AF_UNIX, SOCK_STREAM, 0);
    if (own < 0 || bind(own, &address, sizeof address.sa_family) || listen(own, 8)) { perror("listen"); exit(1); }
    return own;
}

static void serve(int own) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) close(accept(own, NULL, NULL));
}

static void fork_workers(int workers) {
    int own = listening();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int worker = 0; worker < workers; worker++) {
        pid_t child = fork();
        if (child == 0) serve(own);
        if (child < 0) { perror("fork"); exit(1); }
    }
}

static int spawn(int programs, int workers) {
    char byte;
    for (int program = 0; program < programs; program++) {
        pid_t manager = fork();
        if (manager == 0) {
            fork_workers(workers);
            printf("%d\n", getpid());
            fflush(stdout);
            sleep_for_ever();
        }
        if (manager < 0) { perror("fork"); return 1; }
    }
    while (read(0, &byte, 1) > 0) {}
    return 0;
}

static ssize_t read_file(const char *path, char *buffer, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = 0, count;
    while (length < (ssize_t)size - 1 && (count = read(fd, buffer + length, size - 1 - length)) > 0) length += count;
    close(fd);
    buffer[length] = 0;
    return length;
}

static long look(const char *manager) {
    static char children[1 << 20];
    char path[64], statm[128];
    long resident = 0;
    snprintf(path, sizeof path, "/proc/%s/task/%s/children", manager, manager);
    if (read_file(path, children, sizeof children) < 0) return 0;
    for (char *next = children, *end; *next; next = end) {
        long pid = strtol(next, &end, 10);
        if (end == next) break;
        snprintf(path, sizeof path, "/proc/%ld/statm", pid);
        if (read_file(path, statm, sizeof statm) > 0) resident += strtol(strchr(statm, ' '), NULL, 10);
    }
    return resident;
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "spawn")) return spawn(atoi(argv[2]), atoi(argv[3]));
    if (argc == 3 && !strcmp(argv[1], "pool")) { fork_workers(atoi(argv[2])); sleep_for_ever(); }
    if (argc < 4 || strcmp(argv[1], "look")) { fprintf(stderr, "usage: see the source\n"); return 2; }
    int times = atoi(argv[2]);
    long resident = 0;
    for (int time = 0; time < times; time++)
        for (int manager = 3; manager < argc; manager++) resident += look(argv[manager]);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double ms = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e3
        + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e3;
    printf("%.3f %ld\n", ms / times, resident);
    return 0;
}
