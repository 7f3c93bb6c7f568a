// What a token may be and how often it is: against transformers (tests/golden/README.md), against
// double precision, and by frequencies; stop strings; and that none of it is recorded.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "reference/tiny_model.h"
#include "rollout/answer_text.h"
#include "rollout/sampler.h"

namespace opo {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

const Tokenizer& Bytes() {
  static const Tokenizer tokenizer = Tokenizer::Bytes();
  return tokenizer;
}

struct Case {
  std::vector<float> logits;
  std::vector<TokenId> prompt, answer;
  SamplingConfig config;
  TokenContext context() const { return {prompt, answer}; }
  idx vocab() const { return static_cast<idx>(logits.size()); }
};

// As the kernels want it.
std::vector<float> Padded(const std::vector<float>& logits) {
  std::vector<float> row(static_cast<std::size_t>(RoundUp(static_cast<idx>(logits.size()), kPad)));
  std::copy(logits.begin(), logits.end(), row.begin());
  return row;
}

std::vector<Candidate> LeftOf(const Case& c) {
  std::vector<float> row = Padded(c.logits);
  ChangeLogits(row.data(), c.vocab(), c.config, c.context());
  std::vector<Candidate> left;
  RestrictTokens(row.data(), c.vocab(), c.config, left);
  double total = 0;
  for (const Candidate& candidate : left) total += candidate.p;
  for (Candidate& candidate : left) candidate.p /= total;
  return left;
}

// The same in double precision, written another way: a map of probabilities from which each step
// takes away.
std::map<TokenId, double> Reference(const Case& c) {
  std::map<TokenId, double> z;
  for (idx i = 0; i < c.vocab(); ++i) {
    z[static_cast<TokenId>(i)] = static_cast<double>(c.logits[static_cast<std::size_t>(i)]);
  }
  for (const auto& [id, bias] : c.config.logit_bias) z[id] += static_cast<double>(bias);
  std::set<TokenId> seen(c.prompt.begin(), c.prompt.end());
  seen.insert(c.answer.begin(), c.answer.end());
  for (const TokenId id : seen) {
    z[id] *= z[id] < 0 ? c.config.repetition_penalty : 1 / c.config.repetition_penalty;
  }
  for (const TokenId id : std::set<TokenId>(c.answer.begin(), c.answer.end())) {
    const auto times = std::count(c.answer.begin(), c.answer.end(), id);
    z[id] -= c.config.frequency_penalty * static_cast<double>(times) + c.config.presence_penalty;
  }
  std::map<TokenId, double> p;
  const auto normalise = [&p] {
    double sum = 0;
    for (const auto& [id, x] : p) sum += x;
    for (auto& [id, x] : p) x /= sum;
  };
  // How many come before `id`, and their sum.
  const auto before = [&p](TokenId id) {
    std::pair<idx, double> out{0, 0.0};
    for (const auto& [other, x] : p) {
      if (x > p.at(id) || (x == p.at(id) && other < id)) {
        ++out.first;
        out.second += x;
      }
    }
    return out;
  };
  const auto keep = [&p](const auto& wanted) {
    std::vector<TokenId> gone;
    for (const auto& [id, x] : p) {
      if (!wanted(id)) gone.push_back(id);
    }
    for (const TokenId id : gone) p.erase(id);
  };
  for (const auto& [id, x] : z) {
    if (std::isfinite(x)) p[id] = std::exp(x / c.config.temperature);
  }
  if (c.config.top_k > 0) keep([&](TokenId id) { return before(id).first < c.config.top_k; });
  normalise();
  if (c.config.top_p < 1) {
    keep([&](TokenId id) { return before(id).first == 0 || before(id).second < c.config.top_p; });
  }
  if (c.config.min_p > 0) {
    double most = 0;
    for (const auto& [id, x] : p) most = std::max(most, x);
    keep([&](TokenId id) { return p.at(id) >= c.config.min_p * most; });
  }
  normalise();
  return p;
}

TEST(Sampling, LeavesWhatTransformersLeaves) {
  std::ifstream file(std::string(OPO_SOURCE_DIR) + "/tests/golden/sampling.json");
  const auto goldens = nlohmann::json::parse(file);
  ASSERT_EQ(goldens.size(), 108U);
  idx restricted = 0;
  for (std::size_t i = 0; i < goldens.size(); ++i) {
    const auto& golden = goldens[i];
    Case c;
    c.logits = golden["logits"].get<std::vector<float>>();
    c.prompt = golden["prompt"].get<std::vector<TokenId>>();
    c.answer = golden["answer"].get<std::vector<TokenId>>();
    c.config.temperature = golden["temperature"];
    c.config.top_k = golden["top_k"];
    c.config.top_p = golden["top_p"];
    c.config.min_p = golden["min_p"];
    c.config.repetition_penalty = golden["repetition_penalty"];
    for (const auto& [id, value] : golden["logit_bias"].items()) {
      c.config.logit_bias.emplace_back(std::stoi(id), value.is_null() ? -kInf : float{value});
    }
    const std::vector<Candidate> left = LeftOf(c);
    std::vector<TokenId> ids;
    for (const Candidate& candidate : left) ids.push_back(candidate.id);
    ASSERT_EQ(ids, golden["ids"].get<std::vector<TokenId>>()) << "case " << i;
    for (std::size_t j = 0; j < left.size(); ++j) {
      const double want = golden["probabilities"][j];
      // f32 scores below 40 in size, each rounded twice or so: an error of their exp's argument.
      ASSERT_NEAR(left[j].p, want, want * 40 * 4 * 0x1p-24) << "case " << i;
    }
    restricted += ids.size() < 36 ? 1 : 0;
  }
  EXPECT_GT(restricted, 80);
}

// A row of `vocab` logits with ties, and settings of every kind.
Case RandomCase(std::uint32_t n) {
  Case c;
  const auto pick = [&n](std::uint32_t what, std::size_t choices) {
    return static_cast<std::size_t>(Philox4x32({n, what, 0, 0}, {5, 6})[0] % choices);
  };
  const auto vocab = static_cast<idx>(20 + pick(0, 600));
  for (idx i = 0; i < vocab; ++i) {
    c.logits.push_back(static_cast<float>(std::round(12 * Draw(n, i))) / 4);  // about 96 values
  }
  c.prompt = RandomTokens(9, n + 10000, vocab);
  c.answer = RandomTokens(static_cast<idx>(pick(1, 40)), n + 20000, vocab);
  c.config.temperature = std::vector<double>{0.25, 1.0, 2.0}[pick(2, 3)];
  c.config.top_k = std::vector<idx>{0, 1, 7, 50, 5000}[pick(3, 5)];
  c.config.top_p = std::vector<double>{1.0, 0.95, 0.3, 1e-6}[pick(4, 4)];
  c.config.min_p = std::vector<double>{0.0, 0.013, 0.7}[pick(5, 3)];
  // Powers of two and halves: f32 then rounds nothing, and ties stay ties.
  c.config.repetition_penalty = std::vector<double>{1.0, 2.0, 0.5}[pick(6, 3)];
  c.config.presence_penalty = std::vector<double>{0.0, 0.5, -0.5}[pick(7, 3)];
  c.config.frequency_penalty = std::vector<double>{0.0, 0.25, -0.25}[pick(8, 3)];
  if (pick(9, 2) == 0) c.config.logit_bias = {{3, 1.5f}, {11, -kInf}, {0, -0.25f}};
  return c;
}

TEST(Sampling, AgreesWithDoublePrecisionTiesIncluded) {
  idx ties_cut = 0;
  for (std::uint32_t n = 0; n < 300; ++n) {
    const Case c = RandomCase(n);
    const std::map<TokenId, double> want = Reference(c);
    const std::vector<Candidate> left = LeftOf(c);
    ASSERT_EQ(left.size(), want.size()) << "case " << n;
    for (std::size_t j = 0; j < left.size(); ++j) {
      ASSERT_TRUE(want.count(left[j].id)) << "case " << n << " token " << left[j].id;
      // Sums of at most 620 numbers in f64, and 1 / T.
      ASSERT_NEAR(left[j].p, want.at(left[j].id), 1e-12) << "case " << n;
      if (j == 0) continue;
      ASSERT_TRUE(left[j - 1].p > left[j].p ||
                  (left[j - 1].p == left[j].p && left[j - 1].id < left[j].id));
    }
    // A token of the last one's probability that is out: its id must be higher.
    std::vector<float> row = Padded(c.logits);
    ChangeLogits(row.data(), c.vocab(), c.config, c.context());
    std::set<TokenId> in;
    for (const Candidate& candidate : left) in.insert(candidate.id);
    for (idx i = 0; i < c.vocab(); ++i) {
      if (in.count(static_cast<TokenId>(i)) ||
          row[static_cast<std::size_t>(i)] != row[static_cast<std::size_t>(left.back().id)]) {
        continue;
      }
      ASSERT_GT(i, left.back().id);
      ++ties_cut;
    }
  }
  EXPECT_GT(ties_cut, 50) << "no tie was ever decided";
}

TEST(Sampling, FrequenciesAreTheProbabilities) {
  for (const std::uint32_t n : {1U, 4U, 8U, 15U, 23U, 42U, 77U}) {
    Case c = RandomCase(n);
    if (n % 2 == 0) {  // the path without truncation
      c.config.top_k = 0;
      c.config.top_p = 1;
      c.config.min_p = 0;
    }
    const std::map<TokenId, double> p = Reference(c);
    constexpr int kDraws = 20000;
    std::map<TokenId, int> counts;
    for (std::uint32_t d = 0; d < kDraws; ++d) {
      std::vector<float> row = Padded(c.logits);
      const DrawKey key{1, n, 2, d, 0};
      ++counts[SampleToken(row.data(), c.vocab(), c.config, c.context(), UniformDraw(key)).token];
    }
    double chi2 = 0, rare = 0, rare_count = 0;
    int cells = 0;
    for (const auto& [id, x] : p) {
      const double expected = x * kDraws;
      if (expected < 10) {  // joined to one cell
        rare += expected;
        rare_count += counts[id];
        continue;
      }
      chi2 += std::pow(counts[id] - expected, 2) / expected;
      ++cells;
    }
    if (rare >= 10) {
      chi2 += std::pow(rare_count - rare, 2) / rare;
      ++cells;
    }
    for (const auto& [id, count] : counts) {
      EXPECT_TRUE(count == 0 || p.count(id)) << "token " << id << " was not allowed";
    }
    // Mean cells - 1, deviation sqrt(2 (cells - 1)): five of them, for a fixed seed.
    const double freedom = std::max(cells - 1, 1);
    EXPECT_LE(chi2, freedom + 5 * std::sqrt(2 * freedom)) << "case " << n;
  }
}

TEST(Sampling, TemperatureZeroTakesTheLargestOfTheChangedLogits) {
  Case c;
  c.logits = {1.0f, 4.0f, 3.0f, 4.0f, -1.0f};
  c.config.temperature = 0;
  const auto token = [&c] {
    std::vector<float> row = Padded(c.logits);
    return SampleToken(row.data(), c.vocab(), c.config, c.context(), 0.7).token;
  };
  EXPECT_EQ(token(), 1) << "of equal ones the lower id";
  c.prompt = {1};
  c.config.repetition_penalty = 2;
  EXPECT_EQ(token(), 3);
  c.answer = {3, 3};
  EXPECT_EQ(token(), 2);
  c.config.repetition_penalty = 1;
  c.config.frequency_penalty = 0.75;
  c.config.logit_bias = {{1, -0.5f}};
  EXPECT_EQ(token(), 1) << "4 - 0.5 against 4 - 1.5: the prompt's tokens do not count";
  c.config.logit_bias = {{1, -kInf}, {4, 5.0f}};
  EXPECT_EQ(token(), 4);
}

std::vector<RolloutGroup> Sample(std::vector<RolloutGroup> groups, const SamplingConfig& config,
                                 const TokenCallback& on_token = {}) {
  TinyModel<bf16> tiny(TinyWeights());
  Generate(tiny.model, Bytes(), std::span<RolloutGroup>(groups), config, on_token);
  return groups;
}

SamplingConfig Everything() {
  SamplingConfig config;
  config.temperature = 0.8;
  config.top_k = 90;
  config.top_p = 0.9;
  config.min_p = 0.01;
  config.repetition_penalty = 1.2;
  config.presence_penalty = 0.3;
  config.frequency_penalty = 0.2;
  config.logit_bias = {{65, 3.0f}, {66, -kInf}, {257, -kInf}};
  config.max_new_tokens = 60;
  return config;
}

TEST(Sampling, RecordsTheModelsOwnLogProbs) {
  const SamplingConfig config = Everything();
  const auto sampled = Sample(MakeGroups({5, 33, 1}, 4, 259), config);
  auto scored = sampled;
  TinyModel<bf16> tiny(TinyWeights());
  Score(tiny.model, std::span<RolloutGroup>(scored), config.inv_temperature());
  for (std::size_t g = 0; g < sampled.size(); ++g) {
    EXPECT_TRUE(SameGroup(sampled[g], scored[g])) << "group " << g;
    for (const Rollout& r : sampled[g].rollouts) {
      EXPECT_EQ(std::count(r.tokens.begin(), r.tokens.end(), 66), 0) << "a forbidden token";
    }
  }
}

// E2 and E3 with all settings on, different ones for each group.
TEST(Sampling, AGroupsOwnConfigGivesTheBitsItGivesAlone) {
  auto groups = MakeGroups({5, 33, 1, 12}, 3, 259);
  groups[0].sampling = Everything();
  groups[1].sampling = Everything();
  groups[1].sampling->seed = 9;
  groups[1].sampling->max_new_tokens = 7;
  groups[1].sampling->logit_bias = {{256, -kInf}, {257, -kInf}, {258, -kInf}};  // no end
  groups[2].sampling = Everything();
  groups[2].sampling->temperature = 0;
  SamplingConfig others;
  others.max_new_tokens = 20;
  const auto batch = Sample(groups, others);
  SetNumThreads(1);
  others.slots = 2;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    RolloutGroup alone = groups[g];
    alone.sampling.reset();
    SamplingConfig config = groups[g].sampling.value_or(others);
    config.slots = 2;
    EXPECT_TRUE(SameGroup(batch[g], Sample({alone}, config)[0])) << "group " << g;
  }
  SetNumThreads(0);
  EXPECT_EQ(batch[1].rollouts[0].length(), 7);
  EXPECT_EQ(batch[2].rollouts[0].tokens, batch[2].rollouts[1].tokens) << "greedy";
  EXPECT_NE(batch[0].rollouts[0].tokens, batch[0].rollouts[1].tokens);
}

TEST(Sampling, ABiasThatDoesNotFitIsRefused) {
  SamplingConfig config;
  config.logit_bias = {{259, 1.0f}};
  EXPECT_THROW(Sample(MakeGroups({3}, 1, 259), config), Error);
  config.logit_bias.clear();
  for (TokenId id = 0; id < 259; ++id) config.logit_bias.emplace_back(id, -kInf);
  EXPECT_THROW(Sample(MakeGroups({3}, 1, 259), config), Error);
  config.logit_bias.pop_back();  // one is left, and is drawn
  const auto groups = Sample(MakeGroups({3}, 1, 259), config);
  EXPECT_EQ(groups[0].rollouts[0].tokens, (std::vector<TokenId>{258}));
  EXPECT_EQ(groups[0].rollouts[0].finish, FinishReason::kEos);
}

// What is printed of an answer that comes in pieces is the text that is kept.
std::string Streamed(const std::string& text, const std::vector<std::string>& stops,
                     bool* stopped) {
  AnswerText answer(Bytes(), stops);
  std::string out;
  *stopped = false;
  for (const TokenId id : Bytes().Encode(text)) {
    *stopped = answer.Push(id);
    out += answer.Certain();
    if (*stopped) break;
  }
  if (!*stopped) answer.End();
  out += answer.Certain();
  EXPECT_EQ(out, answer.text());
  return out;
}

TEST(StopStrings, CutBeforeTheFirstThatIsComplete) {
  const struct {
    std::string text;
    std::vector<std::string> stops;
    std::string want;
    bool stopped;
  } cases[] = {
      {"one two three", {"two"}, "one ", true},
      {"one two three", {"four"}, "one two three", false},
      {"one tw", {"two"}, "one tw", false},   // held back, and let go at the end
      {"xabcd", {"abcd", "bc"}, "xa", true},  // bc is complete first
      {"xabc", {"bc", "abc"}, "x", true},     // both at once: before the longer
      {"aaaab", {"aab"}, "aa", true},         // a beginning within a beginning
      {"ababac", {"abac"}, "ab", true},
      {"stop", {"stop"}, "", true},
      {"a\n\nb", {"\n\n"}, "a", true},
      {"\xc3\xa4\xc3\xb6", {"\xc3\xb6"}, "\xc3\xa4", true},
      {"abc", {}, "abc", false},
      {"abc", {""}, "abc", false},
  };
  for (const auto& c : cases) {
    bool stopped = false;
    EXPECT_EQ(Streamed(c.text, c.stops, &stopped), c.want) << c.text;
    EXPECT_EQ(stopped, c.stopped) << c.text;
  }
}

// The longest text without a whole stop string, by brute force.
std::string CutByHand(const std::string& text, const std::vector<std::string>& stops) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    const std::string start = text.substr(0, end);
    std::size_t cut = std::string::npos;
    for (const std::string& stop : stops) {
      if (start.ends_with(stop)) cut = std::min(cut, end - stop.size());
    }
    if (cut != std::string::npos) return start.substr(0, cut);
  }
  return text;
}

TEST(StopStrings, AgreeWithASearchByHandOnRandomTexts) {
  idx cuts = 0;
  for (std::uint32_t n = 0; n < 2000; ++n) {
    const auto word = [&n](std::uint32_t stream, std::size_t length) {
      std::string out;
      for (std::size_t i = 0; i < length; ++i) {
        out += static_cast<char>(
            'a' + Philox4x32({n, stream, static_cast<std::uint32_t>(i), 0}, {1, 2})[0] % 2);
      }
      return out;
    };
    const std::string text = word(0, 12);
    const std::vector<std::string> stops = {word(1, 3 + n % 3), word(2, 2 + n % 5), word(3, 6)};
    bool stopped = false;
    const std::string want = CutByHand(text, stops);
    EXPECT_EQ(Streamed(text, stops, &stopped), want) << text;
    EXPECT_EQ(stopped, want != text) << text;
    cuts += stopped ? 1 : 0;
  }
  EXPECT_GT(cuts, 500);
  EXPECT_LT(cuts, 2000);
}

TEST(StopStrings, ATokenOfSeveralCharactersIsCutWithin) {
  OPO_NEEDS_SMOLLM2();
  const Tokenizer tokenizer = Tokenizer::Load(SmolLm2Path());
  const std::string text = "The answer is forty-two, isn't it? Yes.\n\nQuestion: next";
  const std::vector<TokenId> ids = tokenizer.Encode(text);
  ASSERT_LT(ids.size(), text.size() / 2);
  for (const std::vector<std::string>& stops : std::vector<std::vector<std::string>>{
           {"wer is fo"}, {"\nQ", "\n\n"}, {"n't it? Y", "tw"}, {"estio"}, {"zzz"}}) {
    AnswerText answer(tokenizer, stops);
    std::string out;
    bool stopped = false;
    for (std::size_t i = 0; i < ids.size() && !stopped; ++i) {
      stopped = answer.Push(ids[i]);
      out += answer.Certain();
    }
    if (!stopped) answer.End();
    out += answer.Certain();
    EXPECT_EQ(out, CutByHand(text, stops));
    EXPECT_EQ(answer.text(), out);
  }
}

TEST(StopStrings, EventsCarryTheTextAndEndOnce) {
  SamplingConfig config;
  config.max_new_tokens = 80;
  config.seed = 3;
  // Letters that this model writes now and then.
  for (char c = 'a'; c <= 'z'; ++c) config.stop.push_back(std::string(1, c) + "x");
  config.stop.emplace_back("q");
  std::map<std::pair<idx, idx>, std::string> texts;
  std::map<std::pair<idx, idx>, idx> tokens, ends;
  const auto groups = Sample(MakeGroups({5, 33}, 6, 259), config, [&](const TokenEvent& event) {
    const std::pair<idx, idx> at{event.group, event.sample};
    texts[at] += event.text;
    ++tokens[at];
    ends[at] += event.done ? 1 : 0;
  });
  idx stops = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      const Rollout& r = groups[g].rollouts[s];
      const std::pair<idx, idx> at{static_cast<idx>(g), static_cast<idx>(s)};
      EXPECT_EQ(texts[at], r.text);
      EXPECT_EQ(tokens[at], r.length());
      EXPECT_EQ(ends[at], 1);
      stops += r.finish == FinishReason::kStop ? 1 : 0;
      EXPECT_EQ(r.text.find('q'), std::string::npos);
    }
  }
  EXPECT_GT(stops, 0);
}

}  // namespace
}  // namespace opo
