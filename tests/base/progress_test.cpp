#include "base/progress.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace opo {
namespace {

// What a Progress writes; `work` drives it and the clock.
template <class Work>
std::string Written(bool terminal, idx total, idx done_before, Work work) {
  char* data = nullptr;
  std::size_t size = 0;
  std::FILE* out = open_memstream(&data, &size);
  double now = 100;
  {
    Progress progress(out, terminal, total, "step", done_before, [&] { return now; });
    work(progress, now);
  }
  std::fclose(out);
  const std::string text(data, size);
  std::free(data);
  return text;
}

TEST(Progress, PlainLinesElsewhere) {
  const std::string text = Written(false, 4, 0, [](Progress& p, double& now) {
    now += 2;
    p.Update(1, "reward 0.5");
    p.Update(1, "the same step again");
    now += 2;
    p.Update(2, "");
    now += 4;
    p.Update(4, "");
  });
  EXPECT_EQ(text,
            "step 1/4  reward 0.5  2.0 s/step  6s left\n"
            "step 2/4  2.0 s/step  4s left\n"
            "step 4/4  2.0 s/step  took 8s\n");
}

TEST(Progress, OneLineDrawnInPlaceOnATerminal) {
  const std::string text = Written(true, 10, 0, [](Progress& p, double& now) {
    now += 0.5;
    p.Update(5, "x");
    now += 0.05;
    p.Update(5, "too soon to redraw");
    now += 0.2;
    p.Update(5, "y");
  });
  EXPECT_EQ(text,
            "\r[##########..........] step 5/10  x  10.0 steps/s  1s left\x1b[K"
            "\r[##########..........] step 5/10  y  6.7 steps/s  1s left\x1b[K\n");
}

TEST(Progress, ALongLineIsCutSoThatItDoesNotWrap) {
  const std::string text =
      Written(true, 10, 0, [](Progress& p, double&) { p.Update(5, std::string(500, 'x')); });
  EXPECT_LE(text.size(), 80U + 5U);
}

TEST(Progress, RateOfAResumedRunCountsFromItsStart) {
  const std::string text = Written(false, 100, 90, [](Progress& p, double& now) {
    now += 3;
    p.Update(91, "");
  });
  EXPECT_EQ(text, "step 91/100  3.0 s/step  27s left\n");
}

TEST(Progress, Durations) {
  EXPECT_EQ(DurationText(0.2), "0s");
  EXPECT_EQ(DurationText(59.6), "1m00s");
  EXPECT_EQ(DurationText(723), "12m03s");
  EXPECT_EQ(DurationText(3 * 3600 + 4 * 60 + 5), "3h04m");
}

}  // namespace
}  // namespace opo
