#include "app/sampling.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <variant>

#include "base/clock.h"
#include "base/fields.h"
#include "base/json.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

constexpr double kMaxBias = 1000;
constexpr double kProgressSeconds = 10;  // between lines, without a terminal

// A number among the settings. The option is the key with dashes.
struct Setting {
  const char* key;
  const char* help;
  double low, high;
  bool or_zero;  // 0 is a value too, and below `low`
  std::variant<double SamplingConfig::*, idx SamplingConfig::*> member;
};

const std::array<Setting, 8> kSettings = {{
    {"temperature", "divides the logits; 0: the most likely token", 0.01, 100, true,
     &SamplingConfig::temperature},
    {"top_k", "sample from the k likeliest tokens; 0: off", 0, 1e9, false, &SamplingConfig::top_k},
    {"top_p", "sample from the smallest set with this probability; 1: off", 1e-6, 1, false,
     &SamplingConfig::top_p},
    {"min_p", "drop tokens below this part of the likeliest's probability; 0: off", 0, 1, false,
     &SamplingConfig::min_p},
    {"repetition_penalty", "weakens tokens of prompt and answer; above 1, 1: off", 0.01, 100, false,
     &SamplingConfig::repetition_penalty},
    {"presence_penalty", "taken from the logit of each token of the answer; 0: off", -2, 2, false,
     &SamplingConfig::presence_penalty},
    {"frequency_penalty", "the same, times its occurrences; 0: off", -2, 2, false,
     &SamplingConfig::frequency_penalty},
    {"max_new_tokens", "the longest answer", 1, 1 << 20, false, &SamplingConfig::max_new_tokens},
}};

double Value(const Setting& setting, const SamplingConfig& config) {
  if (const auto* real = std::get_if<double SamplingConfig::*>(&setting.member)) {
    return config.*(*real);
  }
  return static_cast<double>(config.*std::get<idx SamplingConfig::*>(setting.member));
}

// `value` is NaN where it was no number; `text` is what was given.
void Assign(const Setting& setting, double value, std::string_view text, ErrorCode code,
            const std::string& place, SamplingConfig& config) {
  const auto* real = std::get_if<double SamplingConfig::*>(&setting.member);
  const bool in_range =
      (value >= setting.low && value <= setting.high) || (setting.or_zero && value == 0);
  if (!in_range || (real == nullptr && value != std::floor(value))) {
    Fail(code, "{}: must be {}{} from {} to {}, but is {}", place, setting.or_zero ? "0 or " : "",
         real != nullptr ? "a number" : "a whole number", setting.low, setting.high, text);
  }
  if (real != nullptr) {
    config.*(*real) = value;
  } else {
    config.*std::get<idx SamplingConfig::*>(setting.member) = static_cast<idx>(value);
  }
}

double ParseNumber(std::string_view text) {
  double value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool all = read.ec == std::errc() && read.ptr == text.data() + text.size();
  return all ? value : std::numeric_limits<double>::quiet_NaN();
}

void AddBias(std::string_view id_text, double value, std::string_view value_text, ErrorCode code,
             const std::string& place, SamplingConfig& config) {
  TokenId id = -1;
  const char* end = id_text.data() + id_text.size();
  const auto read = std::from_chars(id_text.data(), end, id);
  if (read.ec != std::errc() || read.ptr != end || id < 0) {
    Fail(code, "{}: '{}' is no token id", place, id_text);
  }
  const bool forbids = value == -std::numeric_limits<double>::infinity();
  if (!forbids && !(std::abs(value) <= kMaxBias)) {
    Fail(code, "{}: the value of {} must be -inf or a number from {} to {}, but is {}", place, id,
         -kMaxBias, kMaxBias, value_text);
  }
  for (const auto& [other, bias] : config.logit_bias) {
    if (other == id) Fail(code, "{}: token id {} is there twice", place, id);
  }
  config.logit_bias.emplace_back(id, static_cast<float>(value));
}

// {"ID": VALUE, ...}; JSON has no -inf, so that is a string.
void ReadBias(const ordered_json& object, ErrorCode code, const std::string& place,
              SamplingConfig& config) {
  if (!object.is_object()) Fail(code, "{}: must be an object, {{\"ID\": VALUE}}", place);
  for (const auto& [id, value] : object.items()) {
    const double number = value.is_number()   ? value.get<double>()
                          : value.is_string() ? ParseNumber(value.get<std::string>())
                                              : std::numeric_limits<double>::quiet_NaN();
    AddBias(id, number, value.dump(), code, place, config);
  }
}

void ReadBiasOption(const std::string& text, SamplingConfig& config) {
  const std::string place = "--logit-bias";
  if (text.starts_with('{')) {
    std::string fault;
    const auto object = TryParseJson<ordered_json>(text, fault);
    if (!object) Fail(ErrorCode::kUsage, "{}: '{}' is {}", place, text, fault);
    return ReadBias(*object, ErrorCode::kUsage, place, config);
  }
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos) {
    Fail(ErrorCode::kUsage, "{}: write ID=VALUE or {{\"ID\": VALUE}}, not '{}'", place, text);
  }
  const std::string value = text.substr(equals + 1);
  AddBias(text.substr(0, equals), ParseNumber(value), value, ErrorCode::kUsage, place, config);
}

void ReadStops(const ordered_json& value, const std::string& place, SamplingConfig& config) {
  config.stop.clear();
  const ordered_json list = value.is_array() ? value : ordered_json::array({value});
  for (const ordered_json& stop : list) {
    if (!stop.is_string() || stop.get_ref<const std::string&>().empty()) {
      Fail(ErrorCode::kInput, "{}: must be a text that is not empty, or a list of them", place);
    }
    config.stop.push_back(stop.get<std::string>());
  }
}

std::string OptionOf(std::string key) {
  for (char& c : key) c = c == '_' ? '-' : c;
  return "--" + key;
}

}  // namespace

void SamplingOptions::Add(CLI::App& app, double temperature, idx max_new_tokens) {
  config.temperature = temperature;
  config.max_new_tokens = max_new_tokens;
  for (const Setting& setting : kSettings) {
    const std::string option = OptionOf(setting.key);
    app.add_option_function<std::string>(
           option,
           [this, &setting, option](const std::string& text) {
             Assign(setting, ParseNumber(text), text, ErrorCode::kUsage, option, config);
           },
           setting.help)
        ->type_name("NUMBER")
        ->default_str(fmt::format("{}", Value(setting, config)));
  }
  // One call an occurrence: CLI11 would take a vector's "[text]" for a list.
  app.add_option_function<std::string>(
         "--logit-bias", [this](const std::string& text) { ReadBiasOption(text, config); },
         "ID=VALUE, added to a token's logit, -inf forbids it; or {\"ID\": VALUE} (repeatable)")
      ->trigger_on_parse();
  app.add_option_function<std::string>(
         "--stop",
         [this](const std::string& text) {
           if (text.empty())
             Fail(ErrorCode::kUsage, "--stop: an empty text would end every answer");
           config.stop.push_back(text);
         },
         "a text that ends an answer, which is cut before it (repeatable)")
      ->trigger_on_parse();
  app.add_option_function<std::string>(
         "--seed",
         [this](const std::string& text) {
           const char* end = text.data() + text.size();
           const auto read = std::from_chars(text.data(), end, config.seed);
           if (read.ec == std::errc() && read.ptr == end) return;
           Fail(ErrorCode::kUsage, "--seed: must be a whole number below 2^64, but is {}", text);
         },
         "of the sampling")
      ->type_name("NUMBER")
      ->default_str(fmt::to_string(config.seed));
  app.add_option("--slots", config.slots, "samples decoded at once; 0: 256")
      ->check(CLI::NonNegativeNumber);
}

void CheckBias(const SamplingConfig& config, idx vocab, ErrorCode code, const std::string& place) {
  for (const auto& [id, bias] : config.logit_bias) {
    if (id < vocab) continue;
    Fail(code, "{}: token id {} is outside the vocabulary of {}", place, id, vocab);
  }
}

void ReadSamplingKeys(const ordered_json& line, const std::string& where, SamplingConfig& config,
                      idx& n) {
  std::vector<std::string> known = {"id", "prompt", "messages", "prompt_ids",
                                    "n",  "seed",   "stop",     "logit_bias"};
  const std::size_t prompt_keys = 4;
  for (const Setting& setting : kSettings) known.emplace_back(setting.key);
  for (const auto& [key, value] : line.items()) {
    const std::string place = fmt::format("{}: `{}`", where, key);
    const auto setting =
        std::find_if(kSettings.begin(), kSettings.end(),
                     [&key = key](const Setting& s) { return key == std::string_view(s.key); });
    if (setting != kSettings.end()) {
      const double number =
          value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
      Assign(*setting, number, value.dump(), ErrorCode::kInput, place, config);
    } else if (key == "n") {
      if (!value.is_number_unsigned() || value < 1 || value > kMaxSamples) {
        Fail(ErrorCode::kInput, "{}: must be a whole number from 1 to {}, but is {}", place,
             kMaxSamples, value.dump());
      }
      n = value.get<idx>();
    } else if (key == "seed") {
      if (!value.is_number_unsigned()) {
        Fail(ErrorCode::kInput, "{}: must be a whole number that is not negative, but is {}", place,
             value.dump());
      }
      config.seed = value.get<std::uint64_t>();
    } else if (key == "stop") {
      ReadStops(value, place, config);
    } else if (key == "logit_bias") {
      config.logit_bias.clear();
      ReadBias(value, ErrorCode::kInput, place, config);
    } else if (std::find(known.begin(), known.begin() + prompt_keys, key) ==
               known.begin() + prompt_keys) {
      const std::array<std::string_view, 5> of_data = {"answer", "data_source", "ability",
                                                       "reward_model", "extra_info"};
      if (std::find(of_data.begin(), of_data.end(), key) != of_data.end()) continue;
      const std::string near = NearestName(key, known);
      Fail(ErrorCode::kInput, "{}: is unknown; {}", place,
           near.empty() ? fmt::format("known are {}", fmt::join(known, ", "))
                        : fmt::format("did you mean `{}`?", near));
    }
  }
}

AnswerProgress::AnswerProgress(idx answers, bool quiet)
    : answers_(answers), terminal_(::isatty(STDERR_FILENO) != 0), last_(Seconds()) {
  // Answers on the same terminal are progress enough.
  const bool in_the_way = terminal_ && ::isatty(STDOUT_FILENO) != 0;
  if (answers > 1 && !quiet && !in_the_way)
    progress_ = std::make_unique<Progress>(answers, "answer");
}

void AnswerProgress::Add(const TokenEvent& event) {
  ++tokens_;
  if (event.done) ++done_;
  if (progress_ == nullptr) return;
  if (!terminal_ && done_ < answers_ && Seconds() - last_ < kProgressSeconds) return;
  last_ = Seconds();
  progress_->Update(done_, fmt::format("{} tokens", tokens_));
}

}  // namespace opo
