// The data of a run: which sets, how they are mixed, what is held out and what is left out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/types.h"
#include "data/problem.h"

namespace opo {

struct DataMixConfig {  // [[data.mix]]
  std::string path;
  double weight = 1;
  std::string prompt_key;  // this and the next four: "" stands for the key of [data]
  std::string answer_key;
  std::string completion_key;
  std::string id_key;
  std::string template_text;  // `template`
};

struct DataConfig {  // [data]
  std::string train = "arithmetic";
  std::string eval;
  double held_out = 0;
  std::string prompt_key;
  std::string answer_key;
  std::string completion_key;
  std::string id_key;
  std::string template_text;  // `template`
  std::string system;
  std::string learn = "assistant";
  idx prompt_limit = 1024;
  idx sequence_limit = 0;
  std::string overlong = "error";
  std::string on_bad_row = "fail";
  bool shuffle = true;
  std::string pass_rates;
  double pass_rate_min = 0;
  double pass_rate_max = 1;
  idx size = 2000;
  std::uint64_t seed = 0;
  std::vector<DataMixConfig> mix;
};

// What keys must satisfy together. Throws Error(kUsage) naming them and the cure.
void ValidateDataConfig(const DataConfig& config);

struct DataSets {
  std::vector<Problem> train;  // the sets one after the other
  std::vector<idx> sizes;      // problems of each set
  std::vector<double> weights;
  std::vector<std::string> names;
  std::vector<Problem> eval;
  std::vector<std::string> notes;  // what was left out and why, for people
};

// Reads data.train, or the sets of data.mix; then data.eval, or what is held out: a built-in set's
// own part, and of files the part that data.held_out asks for. Which side a problem is on follows
// from its prompt alone (as Normalised): it stays there when rows are added, and copies of it are
// on the same side. Then the band of pass rates, for training. Throws Error(kInput) naming the file
// and the row, also where nothing is left of a set. `given`: what training and evaluation want of
// all sets; pairs of two equal answers are left out.
DataSets LoadDataSets(const DataConfig& config, GivenAnswers given = GivenAnswers::kNothing);

}  // namespace opo
