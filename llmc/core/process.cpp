// Contract: process.h.
#include "llmc/core/process.h"

#include "llmc/core/error.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

std::string read_command(const std::vector<std::string>& argv) {
    std::vector<char*> words;
    for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        fatal(std::string("cannot make a pipe: ") + std::strerror(errno), "too many open files?");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    pid_t child;
    const int code = posix_spawnp(&child, words[0], &actions, nullptr, words.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    std::string out;
    char buffer[1 << 16];
    for (ssize_t got; code == 0 && (got = ::read(ends[0], buffer, sizeof buffer)) != 0;) {
        if (got < 0 && errno != EINTR) break;
        if (got > 0) out.append(buffer, size_t(got));
    }
    ::close(ends[0]);
    if (code != 0)
        fatal("cannot run " + argv[0] + ": " + std::strerror(code),
              "is it installed, and in PATH?");
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        std::string line;
        for (const std::string& word : argv) line += (line.empty() ? "" : " ") + word;
        fatal(line + (WIFEXITED(status) ? format(": exit %d", WEXITSTATUS(status))
                                        : format(": signal %d", WTERMSIG(status))),
              "what it said is above");
    }
    return out;
}
