// Any bytes: decode(encode(x)) == x, with and without markup; streaming never splits a character.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/utf8.h"
#include "text/byte_pairs.h"
#include "text/nfc.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using opo::PreTokenizer;
  static const opo::Tokenizer tokenizer = opo::Tokenizer::Bytes();
  static const opo::PieceSplitter splitters[] = {
      opo::PieceSplitter(PreTokenizer::kGpt2), opo::PieceSplitter(PreTokenizer::kSmolLm),
      opo::PieceSplitter(PreTokenizer::kLlama3), opo::PieceSplitter(PreTokenizer::kQwen2)};
  const std::string_view text(reinterpret_cast<const char*>(data), size);

  for (const opo::PieceSplitter& splitter : splitters) {
    std::string joined;
    splitter.Split(text, [&](std::string_view piece) {
      OPO_CHECK(!piece.empty());
      joined += piece;
    });
    OPO_CHECK(joined == text);
  }
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer.Encode(text, parse_special);
    OPO_CHECK(tokenizer.Decode(ids, false) == text);
    opo::StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const opo::TokenId id : ids) {
      const std::string part = stream.Push(id);
      for (std::size_t pos = 0; pos < part.size();) {
        const opo::Utf8Step step = opo::NextUtf8(part, pos);
        OPO_CHECK(step.kind == opo::Utf8Kind::kCharacter);
        pos += step.size;
      }
      streamed += part;
    }
    streamed += stream.Flush();
    OPO_CHECK(parse_special || streamed.size() >= text.size());  // U+FFFD is never shorter
  }
  const std::string nfc = opo::ToNfc(text);
  OPO_CHECK(opo::ToNfc(nfc) == nfc);
  OPO_CHECK(!opo::IsPlainNfc(text) || nfc == text);

  // Merging: the scan of short words and the heap of long ones agree with the definition.
  static const opo::MergeTable table = [] {
    opo::MergeTable merges;
    merges.Reserve(200);
    for (std::int32_t rank = 0; rank < 200; ++rank) {
      merges.Add((rank * 7) % 11, (rank * 5) % 13, rank, 4 + rank % 12);
    }
    return merges;
  }();
  std::vector<opo::TokenId> pieces;
  for (std::size_t i = 0; i < size && i < 300; ++i) pieces.push_back(data[i] % 16);
  std::vector<opo::TokenId> expected = pieces;
  for (;;) {
    const opo::MergeTable::Merge* best = nullptr;
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < expected.size(); ++i) {
      const auto* merge = table.Find(expected[i], expected[i + 1]);
      if (merge != nullptr && (best == nullptr || merge->rank < best->rank)) {
        best = merge;
        at = i;
      }
    }
    if (best == nullptr) break;
    expected[at] = best->result;
    expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  std::vector<opo::TokenId> merged;
  opo::MergePieces(table, pieces, merged);
  OPO_CHECK(merged == expected);
  return 0;
}
