// Contract: corpus.h.
#include "llmc/data/corpus.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"

#include <algorithm>

namespace {

constexpr int kLow = 2, kHigh = 24;
constexpr uint64_t kSplitKey = 0x7072696f72; // fixed: the split never depends on a run's seed

const char* kNames[] = {"Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana"};
const char* kThings[] = {"apples", "pens", "coins", "books", "stones", "shells"};

template <size_t n> const char* pick(const char* const (&words)[n], Rng& rng) {
    return words[rng.below(n)];
}

struct Split {
    std::vector<Triple> training, held_out;
    bool out[kHigh + 1][kHigh + 1][2] = {};

    Split() {
        std::vector<Triple> all;
        for (int a = kLow; a <= kHigh; a++)
            for (int b = kLow; b <= kHigh; b++) {
                all.push_back({a, b, '+'});
                if (a >= b) all.push_back({a, b, '-'});
            }
        auto key = [](const Triple& t) {
            return mix(kSplitKey, uint64_t(t.a * 1000 + t.b) * 2 + (t.op == '-'));
        };
        std::sort(all.begin(), all.end(),
                  [&](const Triple& x, const Triple& y) { return key(x) < key(y); });
        held_out.assign(all.begin(), all.begin() + kHeldOutTriples);
        training.assign(all.begin() + kHeldOutTriples, all.end());
        for (const Triple& t : held_out) out[t.a][t.b][t.op == '-'] = true;
    }
};

const Split& split() {
    static const Split value;
    return value;
}

// "a+b=r"; empty if a training document must not contain it.
std::string step_text(int a, int b, char op, int shown) {
    if (is_held_out(a, b, op)) return "";
    return format("%d%c%d=%d", a, op, b, shown);
}

// The worked answer up to the box; `shown` is the result it claims.
std::string working_text(const Triple& t, int shown, int way) {
    const int tens = t.b / 10 * 10, units = t.b % 10;
    if (way == 1 && tens > 0 && units > 0) { // 7+15: over the tens
        const int middle = t.op == '+' ? t.a + tens : t.a - tens;
        const std::string first = step_text(t.a, tens, t.op, middle);
        const std::string second = step_text(middle, units, t.op, shown);
        if (!first.empty() && !second.empty()) return first + ", " + second + ".";
    }
    if (way == 2) { // the other way round
        const std::string text =
            t.op == '+' ? step_text(t.b, t.a, '+', shown) : step_text(shown, t.b, '+', t.a);
        if (!text.empty()) return text + ".";
    }
    if (way == 3) return format("we get %d.", shown);
    if (way == 4) return format("the answer is %d.", shown);
    return format("%d%c%d=%d.", t.a, t.op, t.b, shown);
}

int flawed_result(const Triple& t, Rng& rng) {
    const int offsets[] = {-10, -2, -1, 1, 2, 10};
    for (;;) {
        const int shown = t.result() + offsets[rng.below(6)];
        if (shown >= 0) return shown;
    }
}

} // namespace

const std::vector<Triple>& held_out_triples() { return split().held_out; }
const std::vector<Triple>& training_triples() { return split().training; }

bool is_held_out(int a, int b, char op) {
    if (a < kLow || a > kHigh || b < kLow || b > kHigh) return false;
    return split().out[a][b][op == '-'];
}

std::string question_text(const Triple& t, int phrasing, Rng& rng) {
    const bool plus = t.op == '+';
    const char* name = pick(kNames, rng);
    const char* thing = pick(kThings, rng);
    switch (phrasing) {
    case 0: return format("Q: %d%c%d?\n", t.a, t.op, t.b);
    case 1: return format("What is %d %s %d?\n", t.a, plus ? "plus" : "minus", t.b);
    case 2:
        return format("%s has %d %s and %s %d. How many?\n", name, t.a, thing,
                      plus ? "gets" : "gives away", t.b);
    case 3: return format("Compute %d %c %d.\n", t.a, t.op, t.b);
    default:
        return plus ? format("Add %d and %d.\n", t.a, t.b) : format("Take %d from %d.\n", t.b, t.a);
    }
}

std::string arithmetic_document(double flaw, Rng& rng) {
    const std::vector<Triple>& triples = training_triples();
    const Triple& t = triples[rng.below(int64_t(triples.size()))];
    const std::string question = question_text(t, int(rng.below(kPhrasings)), rng);
    const int way = int(rng.below(5));
    const int shown = rng.chance(flaw) ? flawed_result(t, rng) : t.result();
    return question + working_text(t, shown, way) + format(" \\boxed{%d}", shown);
}

Chain make_chain(Rng& rng) {
    const char* name = pick(kNames, rng);
    const char* thing = pick(kThings, rng);
    const char* gains[] = {"gets", "finds", "buys"};
    const char* losses[] = {"gives away", "loses", "sells"};
    Chain chain;
    int value = int(rng.between(kLow, kHigh));
    chain.question = format("%s has %d %s", name, value, thing);
    const int64_t steps = rng.between(2, 4);
    for (int64_t i = 0; i < steps; i++) {
        int change;
        bool plus;
        do { // a step must stay small, positive and no held-out triple
            plus = rng.chance(0.5);
            change = int(rng.between(kLow, 12));
        } while ((plus ? value + change > 40 : value <= change) ||
                 is_held_out(value, change, plus ? '+' : '-'));
        const int next = plus ? value + change : value - change;
        chain.question += format("%s %s %d", i + 1 == steps ? " and then" : ",",
                                 plus ? pick(gains, rng) : pick(losses, rng), change);
        chain.worked += format("%s%d%c%d=%d", i ? ", " : "", value, plus ? '+' : '-', change, next);
        value = next;
    }
    chain.question += ". How many are left?\n";
    chain.worked += ".";
    chain.result = value;
    return chain;
}

bool is_held_out_chain(const std::string& question) {
    return hash64(question.data(), question.size()) % 20 == 0;
}

std::string sentences_document(Rng& rng) {
    static const char* adjectives[] = {"old",   "young", "quiet", "brave",  "tired",
                                       "happy", "small", "tall",  "clever", "gentle"};
    static const char* people[] = {"farmer", "teacher", "sailor", "baker",  "doctor",
                                   "child",  "painter", "king",   "singer", "neighbor"};
    static const char* verbs[] = {"sees",   "helps", "follows", "greets",
                                  "paints", "calls", "meets",   "thanks"};
    static const char* places[] = {"in the garden",   "near the river",  "at the market",
                                   "on the hill",     "by the old mill", "behind the house",
                                   "under the bridge"};
    static const char* times[] = {"In the morning", "At noon",   "Every evening",
                                  "On Sunday",      "In winter", "After the rain"};
    std::string text;
    const int64_t count = rng.between(1, 3);
    for (int64_t i = 0; i < count; i++) {
        if (i) text += " ";
        if (rng.chance(0.4)) text += format("%s the", pick(times, rng));
        else text += "The";
        text += format(" %s %s %s the", pick(adjectives, rng), pick(people, rng), pick(verbs, rng));
        if (rng.chance(0.5)) text += format(" %s", pick(adjectives, rng));
        text += format(" %s", pick(people, rng));
        if (rng.chance(0.6)) text += format(" %s", pick(places, rng));
        text += ".";
    }
    return text;
}
