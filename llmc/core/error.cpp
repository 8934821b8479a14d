#include "llmc/core/error.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>

std::string format(const char* fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int length = std::vsnprintf(nullptr, 0, fmt, args);
    va_end(args);
    std::string text(length > 0 ? length : 0, '\0');
    if (length > 0) std::vsnprintf(text.data(), text.size() + 1, fmt, again);
    va_end(again);
    return text;
}

void fatal(const std::string& message, const std::string& hint) {
    throw UserError(message, hint, 1);
}

void usage_error(const std::string& message, const std::string& hint) {
    throw UserError(message, hint, 2);
}

int report_exception(const std::string& who) {
    try {
        throw;
    } catch (const UserError& e) {
        std::fprintf(stderr, "%serror: %s\n", who.c_str(), e.what());
        if (!e.hint.empty()) std::fprintf(stderr, "hint: %s\n", e.hint.c_str());
        return e.exit_code;
    } catch (const std::bad_alloc&) {
        std::fprintf(stderr,
                     "%serror: out of memory\n"
                     "hint: lower -pass_rows or the model's size, or set -recompute selective\n",
                     who.c_str());
        return 1;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "%serror: %s\n", who.c_str(), e.what());
        return 1;
    }
}

int run_main(int (*body)(int, char**), int argc, char** argv) {
    try {
        return body(argc, argv);
    } catch (...) {
        return report_exception("");
    }
}

void require_failed(const char* file, int line, const std::string& message) {
    std::fprintf(stderr, "contract violated at %s:%d: %s\n", file, line, message.c_str());
    std::fprintf(stderr, "This is a bug of prior.cu, please report it with this message.\n");
    std::abort();
}
