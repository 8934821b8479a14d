// The three error classes of the program, never mixed.
//   user      fatal() / usage_error(): thrown, printed once by main as "error: ..." and "hint: ..."
//   contract  require(): our own bug; prints what broke and aborts, always compiled in
//   library   checked where the library is called (device/ and core/ only), reported by fatal()
#pragma once
#include <stdexcept>
#include <string>

struct UserError : std::runtime_error {
    UserError(std::string message, std::string hint_text, int code)
        : std::runtime_error(std::move(message)), hint(std::move(hint_text)), exit_code(code) {}
    std::string hint;
    int exit_code; // 2 = usage, 1 = everything else
};

// printf-style formatting into a string.
std::string format(const char* fmt, ...) __attribute__((format(printf, 1, 2)));

// Stops with exit code 1: the message says what, expected and found; the hint says what to do.
[[noreturn]] void fatal(const std::string& message, const std::string& hint);

// Stops with exit code 2: a flag or recipe key is wrong.
[[noreturn]] void usage_error(const std::string& message, const std::string& hint);

// Inside a catch block: prints what was thrown, `who` first, and returns the exit code for it.
int report_exception(const std::string& who);

// Runs `body` (a main function's work) and turns what it throws into one message and an exit code.
int run_main(int (*body)(int, char**), int argc, char** argv);

[[noreturn]] void require_failed(const char* file, int line, const std::string& message);
#define require(condition, ...)                                                                    \
    do {                                                                                           \
        if (!(condition)) require_failed(__FILE__, __LINE__, format(__VA_ARGS__));                 \
    } while (0)
