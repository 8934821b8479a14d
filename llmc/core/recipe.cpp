// Recipe text and command line against one key table. Contract: recipe.h.
#include "llmc/core/recipe.h"

#include "llmc/core/error.h"
#include "llmc/core/unicode.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace {

// Who set a value; the higher one stays.
enum Rank { kDefault, kRecipeTop, kRecipeSection, kFlag, kSectionFlag };

int edit_distance(const std::string& a, const std::string& b) {
    std::vector<int> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); j++) row[j] = int(j);
    for (size_t i = 1; i <= a.size(); i++) {
        int diagonal = row[0];
        row[0] = int(i);
        for (size_t j = 1; j <= b.size(); j++) {
            int keep = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
            diagonal = keep;
        }
    }
    return row[b.size()];
}

std::string number_text(double value) {
    if (value >= 9e18) return "inf";
    if (value <= -9e18) return "-inf";
    return format("%.12g", value);
}

std::string range_text(const Key& key) {
    if (key.type == KeyType::choice) return key.choices;
    if (key.type == KeyType::flag) return "no|yes";
    if (key.type == KeyType::text) return "";
    return format("[%s, %s]", number_text(key.lo).c_str(), number_text(key.hi).c_str());
}

// A line up to its comment, which starts the line or follows a space: a value may contain #.
std::string without_comment(const std::string& line) {
    for (size_t i = 0; i < line.size(); i++)
        if (line[i] == '#' && (i == 0 || line[i - 1] == ' ')) return line.substr(0, i);
    return line;
}

} // namespace

bool parse_real(const std::string& text, double* value) {
    if (text.empty() || std::isspace(static_cast<unsigned char>(text[0]))) return false;
    char* end = nullptr;
    *value = std::strtod(text.c_str(), &end);
    return end == text.c_str() + text.size() && std::isfinite(*value);
}

bool parse_integer(const std::string& text, int64_t* value) {
    double real = 0;
    if (!parse_real(text, &real) || std::fabs(real) > 9e15 || real != std::floor(real))
        return false;
    *value = int64_t(real);
    return true;
}

std::string trim_text(const std::string& text) {
    size_t begin = text.find_first_not_of(" \t\r\n");
    if (begin == std::string::npos) return "";
    return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

std::vector<std::string> split_text(const std::string& text, char separator) {
    std::vector<std::string> parts(1);
    for (char c : text) {
        if (c == separator) parts.emplace_back();
        else parts.back() += c;
    }
    return parts;
}

bool take_help_flag(std::vector<std::string>* arguments) {
    return std::erase_if(*arguments, [](const std::string& argument) {
               return argument == "-h" || argument == "-help" || argument == "--help";
           }) > 0;
}

Recipe::Recipe(const KeyTable& table) : table_(table) {
    for (const Key& key : table_.keys) {
        check_value(key, key.initial, "the key table");
        values_.emplace_back(key.sections ? table_.sections.size() : 1,
                             Value{key.initial, kDefault});
    }
}

int Recipe::find_key(const std::string& name) const {
    for (size_t i = 0; i < table_.keys.size(); i++)
        if (name == table_.keys[i].name) return int(i);
    return -1;
}

int Recipe::find_section(const std::string& name) const {
    for (size_t i = 0; i < table_.sections.size(); i++)
        if (name == table_.sections[i]) return int(i);
    return -1;
}

// What other programs call batch_size, max_tokens or learning_rate is found by words: those of one
// name are all in the other, or the key's help has them.
std::string Recipe::unknown_key_hint(const std::string& name) const {
    const size_t dot = name.find('.');
    if (dot != std::string::npos && find_key(name.substr(dot + 1)) >= 0) {
        std::string sections;
        for (const std::string& section : table_.sections)
            sections += (sections.empty() ? "" : ", ") + section;
        return "before the dot stands one of " + (sections.empty() ? "none" : sections);
    }
    const std::vector<std::string> words = split_text(name, '_');
    std::string phrase = name;
    std::replace(phrase.begin(), phrase.end(), '_', ' ');
    const char *nearest = "", *by_words = "", *by_help = "";
    int distance = 1000;
    size_t most = 0;
    for (const Key& key : table_.keys) {
        const int d = edit_distance(name, key.name);
        if (d < distance) distance = d, nearest = key.name;
        const std::vector<std::string> own = split_text(key.name, '_');
        const size_t shared = size_t(std::count_if(own.begin(), own.end(), [&](const auto& w) {
            return std::find(words.begin(), words.end(), w) != words.end();
        }));
        if (shared == std::min(own.size(), words.size()) && shared > most)
            most = shared, by_words = key.name;
        if (!*by_help && words.size() > 1 &&
            std::string(key.help).find(phrase) != std::string::npos)
            by_help = key.name;
    }
    const char* best = distance <= 2 ? nearest : *by_words ? by_words : by_help;
    if (!*best && distance <= 3) best = nearest;
    return (*best ? format("did you mean %s? ", best) : "") + "-h lists every key";
}

void Recipe::check_value(const Key& key, const std::string& value, const std::string& where) const {
    const std::string what = format("%s: %s = \"%s\": ", where.c_str(), key.name, value.c_str());
    if (key.type == KeyType::text) return;
    if (key.type == KeyType::choice || key.type == KeyType::flag) {
        for (const std::string& choice : split_text(range_text(key), '|'))
            if (value == choice) return;
        usage_error(what + "expected one of " + range_text(key), key.help);
    }
    double real = 0;
    int64_t integer = 0;
    const bool parsed =
        key.type == KeyType::integer ? parse_integer(value, &integer) : parse_real(value, &real);
    if (!parsed)
        usage_error(
            what + (key.type == KeyType::integer ? "expected an integer" : "expected a number"),
            key.help);
    if (key.type == KeyType::integer) real = double(integer);
    if (real < key.lo || real > key.hi) usage_error(what + "outside " + range_text(key), key.help);
}

void Recipe::assign(int k, int section, const std::string& value, int rank,
                    const std::string& where) {
    const Key& key = table_.keys[k];
    check_value(key, value, where);
    auto put = [&](Value& slot) {
        if (rank >= slot.rank) slot = {value, rank};
    };
    if (!key.sections) {
        if (section >= 0)
            usage_error(format("%s: %s is one value for the whole run, not one of [%s]",
                               where.c_str(), key.name, table_.sections[section].c_str()),
                        "write it at the top of the recipe, or without the section's name");
        put(values_[k][0]);
        return;
    }
    if (section >= 0 && !(key.sections >> section & 1))
        usage_error(format("%s: [%s] has no key %s", where.c_str(),
                           table_.sections[section].c_str(), key.name),
                    "-h lists every key with its sections");
    for (size_t s = 0; s < table_.sections.size(); s++)
        if ((key.sections >> s & 1) && (section < 0 || section == int(s))) put(values_[k][s]);
}

void Recipe::read_text(const std::string& text, const std::string& source) {
    if (const size_t zero = text.find('\0'); zero != std::string::npos)
        usage_error(format("%s: byte %zu is zero", source.c_str(), zero),
                    "a recipe is text; is this the right file?");
    int section = -1, line_number = 0;
    std::vector<std::pair<int, int>> seen;
    for (std::string line : split_text(text.substr(byte_order_mark(text)), '\n')) {
        line_number++;
        const std::string where = format("%s:%d", source.c_str(), line_number);
        line = trim_text(without_comment(line));
        if (line.empty()) continue;
        if (line.front() == '[') {
            if (line.back() != ']' || (section = find_section(line.substr(1, line.size() - 2))) < 0)
                usage_error(format("%s: unknown section %s", where.c_str(), line.c_str()),
                            "a section is a stage's name in brackets, e.g. [" +
                                table_.sections.front() + "]");
            continue;
        }
        size_t equals = line.find('=');
        if (equals == std::string::npos)
            usage_error(
                format("%s: expected key = value, found \"%s\"", where.c_str(), line.c_str()),
                "comments start with #");
        std::string name = trim_text(line.substr(0, equals));
        int key = find_key(name);
        if (key < 0)
            usage_error(format("%s: unknown key %s", where.c_str(), name.c_str()),
                        unknown_key_hint(name));
        if (std::find(seen.begin(), seen.end(), std::make_pair(key, section)) != seen.end())
            usage_error(format("%s: %s is given twice", where.c_str(), name.c_str()),
                        "remove one of the two lines");
        seen.push_back({key, section});
        assign(key, section, trim_text(line.substr(equals + 1)),
               section < 0 ? kRecipeTop : kRecipeSection, where);
    }
}

std::vector<std::string> Recipe::read_arguments(const std::vector<std::string>& arguments) {
    std::vector<std::string> words;
    for (size_t i = 0; i < arguments.size(); i++) {
        std::string name = arguments[i];
        if (name.size() < 2 || name[0] != '-') {
            words.push_back(name);
            continue;
        }
        name = name.substr(name[1] == '-' ? 2 : 1);
        std::string value;
        size_t equals = name.find('=');
        const bool attached = equals != std::string::npos;
        if (attached) {
            value = name.substr(equals + 1);
            name.resize(equals);
        }
        int section = -1, rank = kFlag;
        size_t dot = name.find('.');
        if (dot != std::string::npos && find_section(name.substr(0, dot)) >= 0) {
            section = find_section(name.substr(0, dot));
            name = name.substr(dot + 1);
            rank = kSectionFlag;
        }
        int key = find_key(name);
        if (key < 0)
            usage_error(format("unknown flag %s", arguments[i].c_str()), unknown_key_hint(name));
        const bool bare =
            !attached && table_.keys[key].type == KeyType::flag &&
            (i + 1 == arguments.size() || (arguments[i + 1] != "yes" && arguments[i + 1] != "no"));
        if (bare) {
            value = "yes";
        } else if (!attached) {
            if (i + 1 == arguments.size())
                usage_error(format("flag -%s has no value", name.c_str()), table_.keys[key].help);
            value = arguments[++i];
        }
        assign(key, section, value, rank, "command line");
        flags_.push_back({(section < 0 ? "" : table_.sections[section] + ".") + name, value});
    }
    return words;
}

const Recipe::Value& Recipe::value(const std::string& section, const std::string& key,
                                   KeyType type) const {
    int k = find_key(key), s = find_section(section);
    require(k >= 0, "recipe: no key %s", key.c_str());
    const Key& entry = table_.keys[k];
    const bool word = entry.type == KeyType::choice || entry.type == KeyType::flag;
    require(entry.type == type || (type == KeyType::text && word),
            "recipe: %s read as another type", entry.name);
    require(entry.sections ? s >= 0 && (entry.sections >> s & 1) : section.empty(),
            "recipe: no key %s in section \"%s\"", entry.name, section.c_str());
    return values_[k][entry.sections ? s : 0];
}

int64_t Recipe::integer(const std::string& section, const std::string& key) const {
    int64_t result = 0;
    parse_integer(value(section, key, KeyType::integer).text, &result);
    return result;
}

double Recipe::real(const std::string& section, const std::string& key) const {
    double result = 0;
    parse_real(value(section, key, KeyType::real).text, &result);
    return result;
}

const std::string& Recipe::text(const std::string& section, const std::string& key) const {
    return value(section, key, KeyType::text).text;
}

bool Recipe::is_set(const std::string& section, const std::string& key) const {
    int k = find_key(key), s = find_section(section);
    require(k >= 0, "recipe: no key %s", key.c_str());
    return values_[k][table_.keys[k].sections ? s : 0].rank > kDefault;
}

bool Recipe::binds(const std::string& name) const {
    const int key = find_key(name.substr(name.find('.') + 1)); // npos + 1 = 0
    return key < 0 || table_.keys[key].binds;
}

std::string Recipe::resolved() const {
    std::string out;
    for (int s = -1; s < int(table_.sections.size()); s++) {
        if (s >= 0) out += format("\n[%s]\n", table_.sections[s].c_str());
        for (size_t k = 0; k < table_.keys.size(); k++) {
            const Key& key = table_.keys[k];
            if (s < 0 ? key.sections != 0 : !(key.sections >> s & 1)) continue;
            const std::string& text = values_[k][std::max(s, 0)].text;
            if (text.find('\n') != std::string::npos ||
                trim_text(without_comment(" " + text)) != text)
                usage_error(
                    format("%s = \"%s\": a recipe cannot hold this", key.name, text.c_str()),
                    "no line ends, no # at the start or behind a space, no spaces around it");
            out += format("%s = %s\n", key.name, text.c_str());
        }
    }
    return out;
}

std::string Recipe::usage() const {
    std::string out = table_.synopsis, group;
    for (size_t k = 0; k < table_.keys.size(); k++) {
        const Key& key = table_.keys[k];
        if (group != key.group) out += format("\n%s\n", (group = key.group).c_str());
        std::string now; // the value, or one per section where they differ
        if (!key.sections) {
            now = values_[k][0].text;
        } else {
            std::string first;
            bool same = true, any = false;
            for (size_t s = 0; s < table_.sections.size(); s++) {
                if (!(key.sections >> s & 1)) continue;
                const std::string& text = values_[k][s].text;
                if (any && text != first) same = false;
                if (!any) first = text;
                any = true;
                now += (now.empty() ? "" : ", ") + table_.sections[s] + " " + text;
            }
            const bool everywhere = key.sections == (1u << table_.sections.size()) - 1;
            if (same && everywhere) now = first;
        }
        std::string range = range_text(key);
        out += format("  -%-18s %s\n", key.name, key.help);
        out += format("   %-18s ", "");
        if (*key.unit) out += format("%s; ", key.unit);
        if (!range.empty()) out += format("range %s; ", range.c_str());
        out += format("default %s\n", now.empty() ? "(empty)" : now.c_str());
    }
    return out;
}
