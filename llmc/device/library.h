// A shared library that is looked for when it is first needed: a run on the CPU does not load half
// a gigabyte of GPU code, and starts where there is none.
#pragma once
#include <dlfcn.h>
#include <initializer_list>
#include <string>

class Library {
  public:
    // The first of these names that the system can load.
    explicit Library(std::initializer_list<const char*> names) {
        for (const char* name : names) {
            handle_ = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
            if (handle_) return;
            missing_ += (missing_.empty() ? "" : ", ") + std::string(name);
        }
    }
    // A function, of the type of the pointer that it initialises.
    struct Symbol {
        void* address;
        template <class Function> operator Function*() const {
            return reinterpret_cast<Function*>(address);
        }
    };
    Symbol find(const char* name) {
        void* address = handle_ ? ::dlsym(handle_, name) : nullptr;
        if (!address && handle_) missing_ += (missing_.empty() ? "" : ", ") + std::string(name);
        complete_ = complete_ && address;
        return {address};
    }
    bool complete() const { return handle_ && complete_; } // loaded, and every name found
    const std::string& missing() const { return missing_; }

  private:
    void* handle_ = nullptr; // for the life of the process
    bool complete_ = true;
    std::string missing_;
};
