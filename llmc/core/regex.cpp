// Contract: regex.h.
#include "llmc/core/regex.h"

#include "llmc/core/error.h"

#include <algorithm>
#include <cstring>
#include <vector>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace {

constexpr size_t kFirstStack = size_t(32) << 10, kLargestStack = size_t(64) << 20;
constexpr uint32_t kHeapKibibytes = 4 << 20;
// Steps of one match: enough for any pattern that is linear in the text, and an end for others.
constexpr size_t kFreeSteps = 10'000'000, kStepsPerByte = 64;

// Classes, as the inside of [...], that the two libraries spell or read differently. \s and \d
// agree; \w of Oniguruma has marks, and of the other numbers those of Latin-1.
constexpr const char* kWordClass = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\xB2\\xB3\\xB9\\xBC-\\xBE\\x{"
                                   "24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}"
                                   "\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";
constexpr const char* kHexClass = "0-9A-Fa-f";

class Translator {
  public:
    explicit Translator(const std::string& pattern) : in_(pattern) {}
    std::string run() {
        while (at_ < in_.size()) element();
        return out_;
    }

  private:
    [[noreturn]] void refuse(const std::string& what) const {
        throw RegexError{what + " is not supported"};
    }
    bool next_is(const char* text) const { return in_.compare(at_, std::strlen(text), text) == 0; }
    void copy(size_t count) {
        out_ += in_.substr(at_, count);
        at_ += count;
    }

    // One step outside brackets. atom_ is where the element that a quantifier repeats begins.
    void element() {
        const char c = in_[at_];
        if (c == '\\') {
            atom_ = out_.size();
            escape(false);
        } else if (c == '[') {
            atom_ = out_.size();
            out_ += '[';
            at_++;
            bracket();
            out_ += ']';
        } else if (c == '(') {
            open_.push_back(out_.size());
            group();
        } else if (c == ')') {
            if (!open_.empty()) {
                atom_ = open_.back();
                open_.pop_back();
            }
            copy(1);
        } else if (c == '{') {
            interval();
        } else {
            if (!std::strchr("*+?|^$", c)) atom_ = out_.size();
            copy(1);
        }
    }

    void group() {
        for (const char* kind : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"})
            if (next_is(kind)) return copy(std::strlen(kind));
        if (next_is("(?") || next_is("(*")) refuse("the group " + in_.substr(at_, 4) + "...");
        copy(1);
    }

    // "{n,m}+" is possessive in PCRE2, a repeated repetition in Oniguruma.
    void interval() {
        const size_t close = in_.find('}', at_);
        const bool counts = close != std::string::npos && close > at_ + 1 &&
                            in_.find_first_not_of("0123456789,", at_ + 1) == close;
        if (!counts) { // a brace like any other character
            atom_ = out_.size();
            out_ += "\\{";
            at_++;
            return;
        }
        if (in_[at_ + 1] == ',') {
            out_ += "{0";
            at_++;
        }
        copy(close + 1 - at_);
        if (!next_is("+")) return;
        out_.insert(atom_, "(?:");
        out_ += ")";
    }

    void escape(bool in_class) {
        if (at_ + 1 == in_.size()) refuse("a \\ at the end");
        const char c = in_[at_ + 1];
        const std::string name = in_.substr(at_, 2);
        if (c == 'p' || c == 'P') return property();
        if (c == 'u') return code_point();
        if (c == 'x') {
            const size_t close = in_.find('}', at_);
            if (in_.compare(at_, 3, "\\x{") != 0 || close == std::string::npos)
                refuse(name + " without {...}");
            return copy(close + 1 - at_);
        }
        at_ += 2;
        const char* set = std::strchr("wW", c) ? kWordClass : std::strchr("hH", c) ? kHexClass : "";
        if (*set) {
            const bool negated = c == 'W' || c == 'H';
            if (in_class && negated) refuse(name + " inside [...]");
            out_ += in_class ? set : std::string(negated ? "[^" : "[") + set + "]";
        } else if (c == 'v') {
            out_ += "\\x0b"; // the vertical tab alone; in PCRE2 any vertical space
        } else if (std::strchr("sSdDrntfa", c) || !std::isalnum(static_cast<unsigned char>(c))) {
            out_ += name;
        } else {
            refuse(name);
        }
    }

    void property() {
        const size_t close = in_.find('}', at_);
        if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == std::string::npos)
            refuse(in_.substr(at_, 2) + " without {...}");
        copy(close + 1 - at_);
    }

    void code_point() { // \uHHHH
        const std::string digits = in_.substr(at_ + 2, 4);
        if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos)
            refuse("\\u without four digits");
        out_ += "\\x{" + digits + "}";
        at_ += 6;
    }

    // After "[" up to after "]". A class inside a class is a union in Oniguruma: its brackets go.
    void bracket() {
        if (next_is("^")) copy(1);
        bool first = true;
        for (; at_ < in_.size(); first = false) {
            const char c = in_[at_];
            if (c == ']' && !first) {
                at_++;
                return;
            }
            if (next_is("[:")) refuse("[:...:]");
            if (next_is("[^")) refuse("[^...] inside [...]");
            if (next_is("&&")) refuse("&& inside [...]");
            if (c == '[') {
                at_++;
                bracket();
            } else if (c == '\\') {
                escape(true);
            } else {
                if (c == ']') out_ += '\\';
                copy(1);
            }
        }
        refuse("a [ without ]");
    }

    const std::string& in_;
    std::string out_;
    size_t at_ = 0, atom_ = 0;
    std::vector<size_t> open_; // where in out_ each open group begins
};

std::string error_text(int code) {
    unsigned char text[256] = {};
    pcre2_get_error_message(code, text, sizeof text);
    return reinterpret_cast<const char*>(text);
}

} // namespace

std::string to_pcre2_pattern(const std::string& pattern) { return Translator(pattern).run(); }

struct Regex::Compiled {
    pcre2_code* code = nullptr;
    pcre2_match_data* match = nullptr;
    pcre2_match_context* context = nullptr;
    pcre2_jit_stack* stack = nullptr;
    bool jit = false;

    ~Compiled() {
        pcre2_jit_stack_free(stack);
        pcre2_match_context_free(context);
        pcre2_match_data_free(match);
        pcre2_code_free(code);
    }
};

Regex::Regex(const std::string& pattern, RegexEngine engine)
    : compiled_(std::make_unique<Compiled>()) {
    Compiled& c = *compiled_;
    const std::string translated = to_pcre2_pattern(pattern);
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_compile_context* settings = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(settings, PCRE2_NEWLINE_LF);
    c.code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                           PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                           &error, &offset, settings);
    pcre2_compile_context_free(settings);
    if (!c.code) throw RegexError{error_text(error)};
    c.match = pcre2_match_data_create(1, nullptr);
    c.context = pcre2_match_context_create(nullptr);
    if (!c.match || !c.context) throw std::bad_alloc();
    pcre2_set_heap_limit(c.context, kHeapKibibytes);
    pcre2_set_depth_limit(c.context, UINT32_MAX);
    if (engine == RegexEngine::interpreted) return;
    if (pcre2_jit_compile(c.code, PCRE2_JIT_COMPLETE) != 0) return;
    c.stack = pcre2_jit_stack_create(kFirstStack, kLargestStack, nullptr);
    pcre2_jit_stack_assign(c.context, nullptr, c.stack);
    c.jit = c.stack != nullptr;
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

bool Regex::find(std::string_view text, size_t from, size_t* begin, size_t* end) const {
    const Compiled& c = *compiled_;
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const size_t steps = kFreeSteps + kStepsPerByte * text.size();
    pcre2_set_match_limit(c.context, uint32_t(std::min<size_t>(steps, UINT32_MAX)));
    int found = PCRE2_ERROR_JIT_STACKLIMIT;
    if (c.jit)
        found = pcre2_jit_match(c.code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, c.match,
                                c.context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) // or no JIT: the interpreter's stack is the heap
        found = pcre2_match(c.code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            c.match, c.context);
    if (found == PCRE2_ERROR_NOMATCH) return false;
    if (found < 0)
        fatal("tokenizer: the split pattern fails on this text: " + error_text(found),
              "the pattern is not made for texts of this length; simplify it");
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(c.match);
    *begin = range[0];
    *end = range[1];
    return true;
}
