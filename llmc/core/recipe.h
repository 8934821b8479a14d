// Recipes: one table states every key of a program; usage, parser, range checks and the printed
// recipe all come from it.
//
// A recipe is plain text: `key = value` lines, `#` comments, a top part and one part per [section]
// (./train: pretrain, midtrain, rl). What counts, weakest first: the table's default, the top of
// the recipe, its section, `-key value` on the command line (every section that has the key),
// `-section.key value`.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

enum class KeyType { integer, real, text, choice, flag }; // flag: no|yes; bare = yes
// For the rows of key tables.
constexpr KeyType kInt = KeyType::integer, kReal = KeyType::real, kWord = KeyType::text,
                  kOneOf = KeyType::choice;

struct Key {
    const char* name;
    const char* group; // heading in the usage text
    KeyType type;
    const char* initial; // default, as text
    double lo, hi;       // inclusive range of numbers
    const char* unit;    // "" = none
    const char* help;
    const char* choices = ""; // "a|b|c" for KeyType::choice
    unsigned sections = 0;    // bit i = belongs to sections[i]; 0 = one value for the whole run
    bool binds = true;        // a resumed run must have it as it was
};

struct KeyTable {
    const char* synopsis; // first lines of the usage text
    std::vector<std::string> sections;
    std::vector<Key> keys;
};

class Recipe {
  public:
    explicit Recipe(const KeyTable& table);

    // Reads recipe text; `source` names it in messages. Unknown keys, bad values and duplicates are
    // usage errors with the line number.
    void read_text(const std::string& text, const std::string& source);
    // Parses `-key value`, `--key value`, `--key=value` and `-section.key value`; words that start
    // with no dash, and "-" alone, are returned in order. A KeyType::flag takes the next argument
    // only if that is yes or no. Values win over recipe text, whenever that is read.
    std::vector<std::string> read_arguments(const std::vector<std::string>& arguments);
    // The flags of read_arguments as (name, value), in their order.
    const std::vector<std::pair<std::string, std::string>>& flags() const { return flags_; }
    // Key::binds, by name or section.name; true where there is no such key.
    bool binds(const std::string& key) const;

    // section "" = the whole run. require() if the table has no such key there.
    int64_t integer(const std::string& section, const std::string& key) const;
    double real(const std::string& section, const std::string& key) const;
    const std::string& text(const std::string& section, const std::string& key) const;
    bool is_set(const std::string& section, const std::string& key) const; // by recipe or flag

    // Recipe text that alone repeats the run. Usage error for a value that no recipe can hold.
    std::string resolved() const;
    std::string usage() const; // every key with unit, range, present value and help

  private:
    struct Value {
        std::string text;
        int rank = 0; // who set it, see the precedence above
    };
    int find_key(const std::string& name) const;
    int find_section(const std::string& name) const; // -1 = none such
    void assign(int key, int section, const std::string& value, int rank, const std::string& where);
    void check_value(const Key& key, const std::string& value, const std::string& where) const;
    const Value& value(const std::string& section, const std::string& key, KeyType type) const;
    std::string unknown_key_hint(const std::string& name) const;

    KeyTable table_;
    std::vector<std::pair<std::string, std::string>> flags_;
    std::vector<std::vector<Value>> values_; // [key][section], one entry for whole-run keys
};

// Removes -h, -help and --help, the flags without a value; true if there was one.
bool take_help_flag(std::vector<std::string>* arguments);

// Whole-string number parsing: "1e-3" is a real, "5e11" and "4096" are integers, "12x" is neither.
bool parse_real(const std::string& text, double* value);
bool parse_integer(const std::string& text, int64_t* value);
std::vector<std::string> split_text(const std::string& text, char separator);
std::string trim_text(const std::string& text);
