#include "train/tensorboard.h"

#include <fmt/format.h>

#include <array>
#include <bit>

namespace opo {
namespace {

// The fields of tensorflow/core/util/event.proto and framework/summary.proto that are used here;
// the tag byte of protobuf is (field << 3 | wire type).
enum WireType : unsigned { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
constexpr unsigned kEventWallTime = 1;     // double
constexpr unsigned kEventStep = 2;         // int64
constexpr unsigned kEventFileVersion = 3;  // string
constexpr unsigned kEventSummary = 5;      // Summary
constexpr unsigned kSummaryValue = 1;      // repeated Value
constexpr unsigned kValueTag = 1;          // string
constexpr unsigned kValueSimple = 2;       // float

template <class T>
void PutFixed(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
}

void PutVarint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7f) | 0x80);
  out += static_cast<char>(value);
}

void PutTag(std::string& out, unsigned field, WireType type) { PutVarint(out, field << 3 | type); }

void PutBytes(std::string& out, unsigned field, std::string_view bytes) {
  PutTag(out, field, kBytes);
  PutVarint(out, bytes.size());
  out += bytes;
}

std::string EventOf(double wall_time) {
  std::string event;
  PutTag(event, kEventWallTime, kFixed64);
  PutFixed(event, std::bit_cast<std::uint64_t>(wall_time));
  return event;
}

constexpr std::array<std::uint32_t, 256> kCrcTable = [] {
  std::array<std::uint32_t, 256> table = {};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78U : 0U);
    table[i] = crc;
  }
  return table;
}();

// TFRecord stores CRCs masked, as data that holds its own CRC is weak to check.
std::uint32_t MaskedCrc(std::string_view bytes) {
  return std::rotr(Crc32c(bytes), 15) + 0xA282EAD8U;
}

}  // namespace

std::uint32_t Crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0U;
  for (const char c : bytes) {
    crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  }
  return ~crc;
}

std::string VersionEvent(double wall_time) {
  std::string event = EventOf(wall_time);
  PutBytes(event, kEventFileVersion, "brain.Event:2");
  return event;
}

std::string ScalarEvent(idx step, double wall_time, const ScalarList& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    PutBytes(value, kValueTag, tag);
    PutTag(value, kValueSimple, kFixed32);
    PutFixed(value, std::bit_cast<std::uint32_t>(static_cast<float>(number)));
    PutBytes(summary, kSummaryValue, value);
  }
  std::string event = EventOf(wall_time);
  PutTag(event, kEventStep, kVarint);
  PutVarint(event, static_cast<std::uint64_t>(step));
  PutBytes(event, kEventSummary, summary);
  return event;
}

std::string RecordFrame(std::string_view payload) {
  std::string frame;
  PutFixed(frame, static_cast<std::uint64_t>(payload.size()));
  PutFixed(frame, MaskedCrc(frame));
  frame += payload;
  PutFixed(frame, MaskedCrc(payload));
  return frame;
}

EventWriter::EventWriter(const std::string& folder, double wall_time)
    : file_(fmt::format("{}/events.out.tfevents.{:010}.opo", folder, static_cast<idx>(wall_time))) {
  file_.Append(RecordFrame(VersionEvent(wall_time)));
}

void EventWriter::Write(idx step, double wall_time, const ScalarList& scalars) {
  file_.Append(RecordFrame(ScalarEvent(step, wall_time, scalars)));
}

}  // namespace opo
