// Regular expressions of tokenizer files: Oniguruma's syntax, as Hugging Face's tokenizers read
// them, run by PCRE2 with Unicode properties.
#pragma once
#include <memory>
#include <string>
#include <string_view>

// Why a pattern is refused.
struct RegexError {
    std::string message;
};

// The same pattern in PCRE2's syntax; throws RegexError for what the two read differently and we do
// not translate.
std::string to_pcre2_pattern(const std::string& pattern);

enum class RegexEngine { compiled, interpreted }; // compiled: by the JIT where PCRE2 has one

class Regex {
  public:
    Regex(const std::string& pattern, RegexEngine engine); // throws RegexError
    ~Regex();
    Regex(Regex&&) noexcept;
    Regex(const Regex&) = delete;

    // The leftmost match in `text` that begins at `from` or later, as [*begin, *end). `text` is
    // UTF-8 and its ends are the ends of the subject. Not for two threads at a time.
    bool find(std::string_view text, size_t from, size_t* begin, size_t* end) const;

  private:
    struct Compiled;
    std::unique_ptr<Compiled> compiled_;
};
