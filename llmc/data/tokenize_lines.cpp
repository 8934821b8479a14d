// Contract: tokenize_lines.h.
#include "llmc/data/tokenize_lines.h"

#include "llmc/core/error.h"

namespace {

const Json& field(const Json& line, const char* name, const char* expected,
                  const std::string& where) {
    const std::string what = where + ": expected an object with \"" + name + "\", " + expected;
    const char* hint = "a line to encode is {\"id\": ..., \"text\": \"...\"}, with -decode "
                       "{\"id\": ..., \"ids\": [1, 2, ...]}";
    if (!line.is_object()) fatal(what + ", found " + line.type_name(), hint);
    if (!line.contains(name)) fatal(what + ", found none", hint);
    const Json& value = line[name];
    if (*name == 't' ? !value.is_string() : !value.is_array())
        fatal(what + ", found " + value.dump(-1, ' ', true).substr(0, 60), hint);
    return value;
}

} // namespace

Json encode_line(const Tokenizer& tokenizer, const Json& line, const std::string& where) {
    const Json& text = field(line, "text", "a string", where);
    return {{"id", line.value("id", Json())},
            {"ids", tokenizer.encode_whole(text.get_ref<const std::string&>())}};
}

Json decode_line(const Tokenizer& tokenizer, const Json& line, Specials specials,
                 const std::string& where) {
    std::vector<int32_t> ids;
    for (const Json& id : field(line, "ids", "a list of token ids", where)) {
        const int most = tokenizer.vocab_size() - 1;
        if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > most)
            fatal(where + format(": \"ids\": expected ids of 0 to %d, found ", most) +
                      id.dump(-1, ' ', true).substr(0, 60),
                  "is -tokenizer the one these ids were made with?");
        ids.push_back(id.get<int32_t>());
    }
    return {{"id", line.value("id", Json())}, {"text", decode_utf8(tokenizer, ids, specials)}};
}
