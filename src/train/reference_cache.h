// Log-probs of given answers by the weights that a run began with: computed once, by the policy's
// own model before it learns, and kept on disk. No second model is held: what the run needs of its
// reference are these numbers, 4 bytes a token.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/comm.h"
#include "rollout/rollout.h"

namespace opo {

// The file: "opo-ref1", the key (32 hex digits), then chunks, each the numbers of whole groups
// behind those of the chunk before it. A chunk, little-endian:
//   u64 groups | u64 numbers | f32 numbers | u64 XXH3-64 of (the first group's number as u64, and
//   all of the chunk before)
// A file that ends in the middle of a chunk, or in a damaged one, is good up to there.
class ReferenceNumbers {
 public:
  // `counts` are the numbers of each group.
  explicit ReferenceNumbers(std::vector<idx> counts);

  // Takes the good chunks of a file's bytes. Returns what is wrong with the rest, or "".
  std::string Read(std::string_view bytes, std::string_view key);
  // Where a file of these chunks may go on; 0: it must be begun.
  std::size_t good_bytes() const { return good_bytes_; }
  // The groups behind those there are, as a chunk.
  std::string Add(std::span<const float> numbers, idx groups);

  idx groups() const { return groups_; }  // that are there
  bool complete() const { return groups_ == static_cast<idx>(firsts_.size()) - 1; }
  std::span<const float> Of(idx group) const;

  static std::string Head(std::string_view key);

 private:
  std::vector<std::size_t> firsts_;  // the place of each group's first number; then the end
  std::vector<float> numbers_;
  idx groups_ = 0;
  std::size_t good_bytes_ = 0;
};

template <class T>
class CachedReference {
 public:
  struct Parts {
    Transformer<T>& model;       // of the reference's weights while this is made
    std::string weights_digest;  // and what else the numbers follow from, as text
    float inv_temperature;
    idx groups;                              // how many there are
    std::function<RolloutGroup(idx)> group;  // prompt and answers of each
    std::string folder;                      // made where it is absent
    bool writes = true;                      // false: what is missing is computed, not kept
    std::function<void(idx done, idx all)> progress = {};
  };
  // Reads FOLDER/KEY.logprobs, the key being a digest of all that the numbers follow from, and
  // computes what is not there; other files and damaged ones are told of on stderr. Of several
  // ranks the root has the file, and all share the work. What is computed while another process
  // writes the file is not kept. Throws Error(kWork) where the file cannot be written.
  CachedReference(const Parts& parts, Comm& comm);

  // Fills reference_logprobs and their seals of groups[i], which is number `numbers[i]`.
  void Fill(std::span<RolloutGroup> groups, std::span<const idx> numbers) const;
  std::span<const float> Of(idx group) const { return numbers_.Of(group); }
  idx computed() const { return computed_; }  // groups that were not on disk

 private:
  ReferenceNumbers numbers_;
  idx computed_ = 0;
};

}  // namespace opo
