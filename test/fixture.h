// What tests of files share: a folder of their own, and the message of an error.
#pragma once
#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "test/catch.h"

#include <cstdlib>
#include <filesystem>

// A new folder in /tmp, removed with all that is in it at the end of its life.
struct Folder {
    std::string path;
    Folder() {
        char name[] = "/tmp/prior_test_XXXXXX";
        REQUIRE(mkdtemp(name) != nullptr);
        path = name;
    }
    ~Folder() { std::filesystem::remove_all(path); }
    Folder(const Folder&) = delete;
    std::string file(const std::string& name, const std::string& content) const {
        write_file_atomic(path + "/" + name, content);
        return path + "/" + name;
    }
};

// Message of the UserError that `action` throws, "" if it throws none.
template <class Action> std::string message_of(const Action& action) {
    try {
        action();
    } catch (const UserError& error) {
        CHECK(!error.hint.empty());
        return error.what();
    }
    return "";
}

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}
