// The one forward pass: how rows are handed to it changes no bit (E1, E2).
#include <gtest/gtest.h>

#include "base/parallel.h"
#include "reference/tiny_model.h"

namespace opo {
namespace {

std::vector<std::string> AvailablePaths() {
  std::vector<std::string> names;
  for (const IsaPath& path : IsaPaths()) {
    if (path.available) names.emplace_back(path.name);
  }
  return names;
}

class ForwardTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { SelectIsa(GetParam()); }
  void TearDown() override {
    SelectIsa("");
    SetNumThreads(0);
  }
};
INSTANTIATE_TEST_SUITE_P(Paths, ForwardTest, testing::ValuesIn(AvailablePaths()),
                         [](const auto& path) { return path.param; });

constexpr idx kPrompt = 41;  // shared rows: one whole key block and a part
constexpr idx kAnswer = 110;

// A prompt's segment, and the final hidden states of an answer behind it.
template <class T>
struct Answer {
  TinyModel<T> tiny;
  std::vector<TokenId> tokens = RandomTokens(kPrompt + kAnswer, 1, 259);
  Segment<T> prefix{&tiny.model.pool()};
  Segment<T> own{&tiny.model.pool()};
  Buffer<T> hidden{kAnswer * tiny.model.ld()};

  explicit Answer(idx prompt = kPrompt, const Weights& weights = TinyWeights()) : tiny(weights) {
    if (prompt == 0) return;
    Run<T> run;
    run.segment = &prefix;
    run.tokens = tokens.data();
    run.count = prompt;
    run.outputs = false;
    tiny.model.Forward({&run, 1}, nullptr);
  }
  Run<T> Next(idx count) {
    Run<T> run;
    run.segment = &own;
    run.prefix = prefix.length() > 0 ? &prefix : nullptr;
    run.tokens = tokens.data() + prefix.length() + own.length();
    run.count = count;
    return run;
  }
  // The answer in pieces of these sizes, over and over.
  void InPieces(const std::vector<idx>& sizes) {
    for (std::size_t i = 0; own.length() < kAnswer; ++i) {
      const idx count = std::min(sizes[i % sizes.size()], kAnswer - own.length());
      T* to = hidden.data() + own.length() * tiny.model.ld();
      const Run<T> run = Next(count);
      tiny.model.Forward({&run, 1}, to);
    }
  }
};

template <class T>
void CheckPieces() {
  Answer<T> whole;
  whole.InPieces({kAnswer});
  for (const auto& sizes : std::vector<std::vector<idx>>{{1}, {2, 3}, {31, 1, 5}, {32}, {33}}) {
    Answer<T> pieces;
    pieces.InPieces(sizes);
    EXPECT_TRUE(SameBits(whole.hidden, pieces.hidden)) << "pieces of " << sizes[0];
  }
}

// Pieces, records and threads together, for the other architectures.
template <class T>
void CheckVariants() {
  for (const char* variant : kVariants) {
    const Weights& weights = VariantWeights(variant);
    SetNumThreads(1);
    Answer<T> whole(kPrompt, weights);
    whole.InPieces({kAnswer});
    SetNumThreads(3);
    Answer<T> pieces(kPrompt, weights);
    pieces.InPieces({1, 31, 5, 1, 1});
    EXPECT_TRUE(SameBits(whole.hidden, pieces.hidden)) << variant << ", in pieces";
    for (const Record record : {Record::kResiduals, Record::kAll}) {
      Answer<T> recorded(kPrompt, weights);
      Run<T> run = recorded.Next(kAnswer);
      run.record = record;
      recorded.tiny.model.Forward({&run, 1}, recorded.hidden.data());
      EXPECT_TRUE(SameBits(whole.hidden, recorded.hidden)) << variant << ", recorded";
    }
    Answer<T> moved(kPrompt - 9, weights);
    moved.InPieces({kAnswer});
    const idx ld = moved.tiny.model.ld();
    EXPECT_FALSE(SameBits(whole.hidden.data(), moved.hidden.data() + 9 * ld, (kAnswer - 9) * ld))
        << variant << ": other key blocks went unnoticed";
  }
}

template <class T>
void CheckNeighbours() {
  Answer<T> alone;
  alone.InPieces({kAnswer});
  // The same answer token by token, others of the same and of another prompt before and behind it,
  // and another prompt's prefill in every call.
  Answer<T> crowd;
  Transformer<T>& model = crowd.tiny.model;
  std::vector<Segment<T>> others;
  for (int i = 0; i < 40; ++i) others.emplace_back(&model.pool());
  const std::vector<TokenId> noise = RandomTokens(kAnswer * 40, 2, 259);
  Buffer<T> hidden(41 * model.ld());
  for (idx t = 0; t < kAnswer; ++t) {
    Segment<T> prompt(&model.pool());
    std::vector<Run<T>> runs;
    Run<T> prefill;
    prefill.segment = &prompt;
    prefill.tokens = noise.data() + t;
    prefill.count = 1 + t % 50;
    prefill.outputs = false;
    runs.push_back(prefill);
    const idx before = t % 40;
    for (idx i = 0; i <= 40; ++i) {
      if (i == before) {
        runs.push_back(crowd.Next(1));
        continue;
      }
      const idx o = i < before ? i : i - 1;
      Run<T> other;
      other.segment = &others[static_cast<std::size_t>(o)];
      other.prefix = o % 3 == 0 ? nullptr : &crowd.prefix;
      other.tokens = noise.data() + t * 40 + o;
      other.count = 1;
      runs.push_back(other);
    }
    model.Forward(runs, hidden.data());
    ASSERT_TRUE(SameBits(hidden.data() + before * model.ld(), alone.hidden.data() + t * model.ld(),
                         model.ld()))
        << "token " << t;
  }
}

template <class T>
void CheckRecording() {
  Answer<T> plain;
  plain.InPieces({kAnswer});
  Answer<T> recorded;
  Run<T> run = recorded.Next(kAnswer);
  run.record = Record::kAll;
  recorded.tiny.model.Forward({&run, 1}, recorded.hidden.data());
  EXPECT_TRUE(SameBits(plain.hidden, recorded.hidden));
}

template <class T>
void CheckThreads() {
  SetNumThreads(1);
  Answer<T> one;
  one.InPieces({7});
  for (const int threads : {2, 3}) {
    SetNumThreads(threads);
    Answer<T> many;
    many.InPieces({7});
    EXPECT_TRUE(SameBits(one.hidden, many.hidden)) << threads << " threads";
  }
}

// The control: with the border between prompt and answer elsewhere the key blocks are others, and
// the comparison must see that.
template <class T>
void CheckPlanted() {
  Answer<T> right;
  right.InPieces({kAnswer});
  Answer<T> moved(kPrompt - 9);  // the same tokens: 9 more of them are the answer's
  moved.InPieces({kAnswer});
  const idx ld = moved.tiny.model.ld();
  EXPECT_FALSE(SameBits(right.hidden.data(), moved.hidden.data() + 9 * ld, (kAnswer - 9) * ld))
      << "other key blocks went unnoticed";
}

TEST_P(ForwardTest, DecodeEqualsPrefillBitwise) {
  CheckPieces<bf16>();
  CheckPieces<float>();
}
TEST_P(ForwardTest, EveryArchitectureIsExact) {
  CheckVariants<bf16>();
  CheckVariants<float>();
}
TEST_P(ForwardTest, NeighboursChangeNoBit) {
  CheckNeighbours<bf16>();
  CheckNeighbours<float>();
}
TEST_P(ForwardTest, RecordingChangesNoBit) {
  CheckRecording<bf16>();
  CheckRecording<float>();
}
TEST_P(ForwardTest, ThreadsChangeNoBit) {
  CheckThreads<bf16>();
  CheckThreads<float>();
}
TEST_P(ForwardTest, OtherKeyBlocksAreNoticed) {
  CheckPlanted<bf16>();
  CheckPlanted<float>();
}

}  // namespace
}  // namespace opo
