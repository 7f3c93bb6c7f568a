// The proof of the tape: some of its rows are run forward again.
#include <algorithm>
#include <cstring>
#include <deque>

#include "base/error.h"
#include "base/rng.h"
#include "train/learner.h"

namespace opo {

template <class T>
typename Learner<T>::RecheckResult Learner<T>::Recheck(std::span<const RolloutGroup> groups,
                                                       const Tape<T>& tape, std::uint64_t seed,
                                                       std::uint64_t step, idx max_rows) {
  // The taped segments in a seeded order.
  constexpr std::size_t kPrompt = ~std::size_t{0};  // instead of a sample: the prompt's rows
  struct Candidate {
    std::uint64_t rank;
    std::size_t group, sample;
    const Segment<T>* taped;
  };
  std::vector<Candidate> candidates;
  const auto offer = [&](std::size_t g, std::size_t s, const Segment<T>& taped) {
    if (taped.record() == Record::kNone) return;
    const auto bits =
        Philox4x32({static_cast<std::uint32_t>(g), static_cast<std::uint32_t>(s),
                    static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(step >> 32)},
                   {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
    candidates.push_back({(std::uint64_t{bits[0]} << 32) | bits[1], g, s, &taped});
  };
  const auto taped_group = [&](std::size_t g) -> const typename Tape<T>::Group& {
    return tape.groups[static_cast<std::size_t>(groups[g].tape_group)];
  };
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].tape_group < 0) continue;
    const auto& taped = taped_group(g);
    offer(g, kPrompt, taped.prefix);
    for (std::size_t s = 0; s < taped.samples.size(); ++s) offer(g, s, taped.samples[s]);
  }
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.rank < b.rank; });

  // A window of each, as long as rows are left: it begins at a block of records, anywhere.
  struct Window {
    const Segment<T>* taped;
    Segment<T>* again;
    idx first;
    std::size_t group, sample;
  };
  std::deque<Segment<T>> segments;
  std::map<std::size_t, Segment<T>*> prefixes;  // by group
  std::deque<std::vector<TokenId>> inputs;
  std::vector<Run<T>> runs;
  std::vector<Window> windows;
  for (const Candidate& c : candidates) {
    if (max_rows <= 0) break;
    const RolloutGroup& group = groups[c.group];
    const idx length = c.taped->length();
    const idx count = std::min(length, max_rows);
    const idx places = (length - count) / kActivationRows + 1;
    const idx first =
        static_cast<idx>(c.rank % static_cast<std::uint64_t>(places)) * kActivationRows;
    max_rows -= count;
    Run<T> run;
    if (c.sample == kPrompt) {
      inputs.emplace_back(group.prompt.begin(), group.prompt.end() - 1);
      run.outputs = false;
    } else {
      inputs.push_back(SampleInput(group, group.rollouts[c.sample]));
      const Segment<T>& taped_prefix = taped_group(c.group).prefix;
      if (taped_prefix.length() > 0) {
        Segment<T>*& prefix = prefixes[c.group];
        if (prefix == nullptr) {
          prefix = &segments.emplace_back(&model_.pool());
          model_.RestoreKeys(*prefix, taped_prefix, taped_prefix.length());
        }
        run.prefix = prefix;
      }
    }
    run.segment = &segments.emplace_back(&model_.pool());
    if (first > 0) model_.RestoreKeys(*run.segment, *c.taped, first);
    run.tokens = inputs.back().data() + first;
    run.count = count;
    run.record = Record::kAll;
    runs.push_back(run);
    windows.push_back({c.taped, run.segment, first, c.group, c.sample});
  }
  model_.Forward(runs, nullptr);

  RecheckResult result;
  const ActivationLayout<T>& at = model_.pool().activations();
  const idx num_layers = model_.config().num_layers;
  for (std::size_t i = 0; i < windows.size(); ++i) {
    const auto& [taped, again, first, g, s] = windows[i];
    const bool outputs = runs[i].outputs;
    const auto kept = static_cast<std::size_t>(outputs ? at.kept_bytes : at.final);
    // In the last layer a prompt's rows end before attention.
    const idx rest = outputs ? num_layers * at.rest_layer_bytes
                             : (num_layers - 1) * at.rest_layer_bytes + at.attention;
    for (idx r = first; r < again->length(); ++r, ++result.rows) {
      const bool same =
          std::memcmp(taped->Kept(r, 0), again->Kept(r, 0), kept) == 0 &&
          std::memcmp(taped->Rest(r, 0), again->Rest(r, 0), static_cast<std::size_t>(rest)) == 0;
      if (same) continue;
      if (result.mismatched++ == 0) {
        result.place = PlaceOf(groups[g], s == kPrompt ? idx{-1} : static_cast<idx>(s), r);
      }
    }
  }
  return result;
}

#define OPO_INSTANTIATE(T)                                \
  template Learner<T>::RecheckResult Learner<T>::Recheck( \
      std::span<const RolloutGroup>, const Tape<T>&, std::uint64_t, std::uint64_t, idx);
OPO_INSTANTIATE(float)
OPO_INSTANTIATE(bf16)
#undef OPO_INSTANTIATE

}  // namespace opo
