// Reliability curves: worked ones, what a calibrated scorer must give, and brute force.
#include "eval/calibration.h"

#include <gtest/gtest.h>

#include <cmath>

namespace opo {
namespace {

double LogOdds(double p) { return std::log(p / (1 - p)); }

TEST(Calibration, WorkedExample) {
  // Confidences 0.6, 0.6, 0.9, 0.9; of the first two one comes true, of the others both.
  const std::vector<double> d = {LogOdds(0.6), -LogOdds(0.6), LogOdds(0.9), LogOdds(0.9)};
  const Calibration c = CalibrationOf(d, 5);
  ASSERT_EQ(c.bins.size(), 5U);
  EXPECT_EQ(c.bins[1].low, 0.6);
  EXPECT_EQ(c.bins[0].pairs + c.bins[1].pairs, 2);
  const CalibrationBin& six = c.bins[c.bins[0].pairs > 0 ? 0 : 1];
  EXPECT_NEAR(six.confidence, 0.6, 1e-15);
  EXPECT_EQ(six.accuracy, 0.5);
  idx pairs = 0;
  for (const CalibrationBin& bin : c.bins) pairs += bin.pairs;
  EXPECT_EQ(pairs, 4);
  // (2 * |0.5 - 0.6| + 2 * |1 - 0.9|) / 4
  EXPECT_NEAR(c.error, 0.1, 1e-15);
}

TEST(Calibration, ATieIsHalfRightAndInTheFirstBin) {
  const Calibration c = CalibrationOf(std::vector<double>{0, 0});
  EXPECT_EQ(c.bins[0].pairs, 2);
  EXPECT_EQ(c.bins[0].accuracy, 0.5);
  EXPECT_EQ(c.error, 0);
}

TEST(Calibration, FarApartScoresAreInTheLastBin) {
  const Calibration c = CalibrationOf(std::vector<double>{1e6, -1e6});
  EXPECT_EQ(c.bins.back().pairs, 2);
  EXPECT_EQ(c.bins.back().accuracy, 0.5);
  EXPECT_EQ(c.error, 0.5);
}

TEST(Calibration, WithoutPairsThereIsNoError) {
  const Calibration c = CalibrationOf({});
  EXPECT_EQ(c.error, 0);
  EXPECT_EQ(c.bins.size(), 10U);
  EXPECT_EQ(c.best_scale, 1);
}

// A scorer that is right as often as it says, with every confidence k times too high in log-odds.
std::vector<double> Scores(double k) {
  std::vector<double> d;
  for (const double p : {0.55, 0.65, 0.75, 0.85, 0.95}) {
    for (int i = 0; i < 100; ++i) d.push_back(k * (i < std::lround(100 * p) ? 1 : -1) * LogOdds(p));
  }
  return d;
}

TEST(Calibration, OneWhoIsRightAsOftenAsItSaysHasNoError) {
  const Calibration c = CalibrationOf(Scores(1));
  EXPECT_NEAR(c.error, 0, 1e-12);
  EXPECT_NEAR(c.best_scale, 1, 1e-9);
  EXPECT_GT(CalibrationOf(Scores(4)).error, 0.1);
  EXPECT_NEAR(CalibrationOf(Scores(4)).best_scale, 0.25, 1e-9);
  EXPECT_NEAR(CalibrationOf(Scores(0.5)).best_scale, 2, 1e-9);
  EXPECT_EQ(CalibrationOf(Scores(-1)).best_scale, 0);
}

TEST(Calibration, IsThatOfPairsCountedInBothOrders) {
  // With p = sigmoid(d) of the order given and 1 - p of the other, over 20 bins of [0, 1].
  const std::vector<double> d = {0.3, -0.2, 2.1, 1.4, -0.9, 3.3, 0.05, -4, 0.7, 1.1, -0.33, 2.8};
  struct Bin {
    double said = 0, came = 0;
  };
  std::vector<Bin> bins(20);
  for (const double difference : d) {
    for (const double sign : {1.0, -1.0}) {
      const double p = 1 / (1 + std::exp(-sign * difference));
      Bin& bin = bins[static_cast<std::size_t>(p * 20)];
      bin.said += p;
      bin.came += sign > 0 ? 1 : 0;
    }
  }
  double error = 0;
  for (const Bin& bin : bins) error += std::abs(bin.said - bin.came);
  EXPECT_NEAR(CalibrationOf(d).error, error / (2.0 * static_cast<double>(d.size())), 1e-12);
}

}  // namespace
}  // namespace opo
