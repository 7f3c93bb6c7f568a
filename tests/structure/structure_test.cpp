// The rules of the house that a compiler does not check, read from the source tree itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

const fs::path kSource = fs::path(OPO_SOURCE_DIR) / "src";

struct SourceFile {
  std::string name;  // under src/
  std::string room;
  std::vector<std::string> lines;
};

std::vector<SourceFile> AllSources() {
  std::vector<SourceFile> files;
  for (const auto& entry : fs::recursive_directory_iterator(kSource)) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".h" && extension != ".cpp" && extension != ".inc") continue;
    SourceFile file;
    const fs::path relative = entry.path().lexically_relative(kSource);
    file.name = relative.generic_string();
    file.room = relative.begin()->string();
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) file.lines.push_back(line);
    files.push_back(std::move(file));
  }
  std::sort(files.begin(), files.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.name < b.name; });
  return files;
}

// What a room may include, as CMakeLists.txt declares it with opo_room(NAME [QUICK] DEPS room...
// LIBS ...); what a dependency may include comes with it.
std::map<std::string, std::set<std::string>> DeclaredRooms() {
  std::ifstream in(fs::path(OPO_SOURCE_DIR) / "CMakeLists.txt");
  std::map<std::string, std::set<std::string>> rooms;
  const std::regex declaration(R"(^opo_room\((\w+)(?: QUICK)?(?: DEPS ([\w ]+?))?(?: LIBS .*)?\))");
  for (std::string line; std::getline(in, line);) {
    std::smatch match;
    if (!std::regex_search(line, match, declaration)) continue;
    std::set<std::string>& allowed = rooms[match[1]];
    allowed.insert(match[1]);
    std::istringstream words(match[2]);
    for (std::string dep; words >> dep;) {
      EXPECT_TRUE(rooms.count(dep)) << match[1] << " names " << dep << " before it is declared";
      allowed.insert(rooms[dep].begin(), rooms[dep].end());
    }
  }
  return rooms;
}

TEST(Structure, RoomsStandInTheOrderOfTheDesign) {
  const auto rooms = DeclaredRooms();
  const std::map<std::string, std::set<std::string>> wanted = {
      {"base", {}},
      {"format", {"base"}},
      {"kernels", {"base"}},
      {"text", {"base", "format"}},
      {"data", {"base", "format"}},
      {"model", {"base", "format", "kernels"}},
      {"math", {"base", "format", "text"}},
      {"reward", {"base", "data", "format", "kernels", "math", "model", "text"}},
      {"algo", {"base"}},
      {"rollout", {"base", "data", "format", "kernels", "math", "model", "reward", "text"}},
      {"eval", {"base", "data", "format", "kernels", "math", "model", "reward", "text"}},
      {"comm", {"base"}},
      {"report", {"base"}},
      {"train",
       {"algo", "base", "comm", "data", "eval", "format", "kernels", "math", "model", "report",
        "reward", "rollout", "text"}},
      {"compare",
       {"algo", "base", "comm", "data", "eval", "format", "kernels", "math", "model", "report",
        "reward", "rollout", "text", "train"}}};
  for (const auto& [room, deps] : wanted) {
    ASSERT_TRUE(rooms.count(room)) << room;
    for (const std::string& dep : rooms.at(room)) {
      EXPECT_TRUE(dep == room || deps.count(dep)) << room << " may not depend on " << dep;
    }
  }
}

TEST(Structure, ARoomIncludesOnlyItselfAndWhatItDeclares) {
  const auto rooms = DeclaredRooms();
  const std::regex include(R"(^\s*#\s*include\s+"([^"/]+)/[^"]+")");
  int seen = 0;
  for (const SourceFile& file : AllSources()) {
    ASSERT_TRUE(rooms.count(file.room)) << file.name << ": no opo_room(" << file.room << ")";
    for (const std::string& line : file.lines) {
      std::smatch match;
      if (!std::regex_search(line, match, include)) continue;
      ++seen;
      EXPECT_TRUE(rooms.at(file.room).count(match[1])) << file.name << ": " << line;
    }
  }
  EXPECT_GT(seen, 50);
}

// Quoted includes without a room would escape the test above.
TEST(Structure, IncludesNameTheirRoom) {
  const std::regex include(R"(^\s*#\s*include\s+"[^"/]+")");
  for (const SourceFile& file : AllSources()) {
    for (const std::string& line : file.lines) {
      EXPECT_FALSE(std::regex_search(line, include)) << file.name << ": " << line;
    }
  }
}

TEST(Structure, NothingThatMakesResultsDependOnChanceIsUsed) {
  const std::vector<std::pair<std::string, std::string>> forbidden = {
      {"fast-math", "reorders sums"},
      {"fast_math", "reorders sums"},
      {"associative-math", "reorders sums"},
      {"pragma omp", "reductions in an order of its own"},
      {"pragma STDC FP_CONTRACT", "contraction is off everywhere, an FMA is written"},
      {"std::mt19937", "a stream that threads share: base/rng.h"},
      {"std::random_device", "not reproducible: base/rng.h"},
      {"std::reduce", "sums in any order"},
      {"std::transform_reduce", "sums in any order"},
      {"std::execution", "sums in any order"},
      {"atomic<float", "sums in the order of arrival"},
      {"atomic<double", "sums in the order of arrival"},
  };
  const auto check = [&](const std::string& name, const std::vector<std::string>& lines) {
    for (const std::string& line : lines) {
      for (const auto& [word, why] : forbidden) {
        // A comment that says "no -ffast-math" is fine.
        if (line.find(word) != std::string::npos && line.find("//") > line.find(word)) {
          ADD_FAILURE() << name << ": " << word << " (" << why << "): " << line;
        }
      }
    }
  };
  for (const SourceFile& file : AllSources()) check(file.name, file.lines);
  for (const char* name : {"CMakeLists.txt", "cmake/isa.cmake"}) {
    std::ifstream in(fs::path(OPO_SOURCE_DIR) / name);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) {
      lines.push_back(line.substr(0, line.find('#')));
    }
    ASSERT_FALSE(lines.empty()) << name;
    check(name, lines);
  }
}

TEST(Structure, ContractionIsOffForEveryTarget) {
  std::ifstream in(fs::path(OPO_SOURCE_DIR) / "CMakeLists.txt");
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  EXPECT_NE(text.find("-ffp-contract=off"), std::string::npos);
}

TEST(Structure, NoSourceFileIsTooLongToRead) {
  for (const SourceFile& file : AllSources()) {
    if (file.name.ends_with(".inc")) continue;  // tables are data
    EXPECT_LE(file.lines.size(), 600U) << file.name;
  }
}

TEST(Structure, HeadersSayWhatTheyAreForAndAreIncludedOnce) {
  for (const SourceFile& file : AllSources()) {
    if (!file.name.ends_with(".h")) continue;
    ASSERT_FALSE(file.lines.empty()) << file.name;
    EXPECT_TRUE(file.lines[0].starts_with("//")) << file.name << ": says not what it is for";
    EXPECT_TRUE(std::count(file.lines.begin(), file.lines.end(), "#pragma once") == 1) << file.name;
  }
}

TEST(Structure, NoSourceFileNamesAPlaceOnSomebodysMachine) {
  const std::regex place(R"((^|[\s"'(])/(home|tmp|work|root|Users)/)");
  for (const SourceFile& file : AllSources()) {
    for (const std::string& line : file.lines) {
      EXPECT_FALSE(std::regex_search(line, place)) << file.name << ": " << line;
    }
  }
}

std::string Output(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string out;
  std::array<char, 4096> buffer;
  while (pipe != nullptr) {
    const std::size_t n = fread(buffer.data(), 1, buffer.size(), pipe.get());
    if (n == 0) break;
    out.append(buffer.data(), n);
  }
  return out;
}

// An inline function compiled for a newer CPU is a weak symbol, and the linker takes the first copy
// that it meets for the whole program: the portable path would then crash on an older CPU.
TEST(Structure, InstructionSetObjectsDefineNoWeakCode) {
#if !defined(__OPTIMIZE__)
  GTEST_SKIP() << "without optimisation inline functions stay functions";
#endif
  const fs::path objects = fs::path(OPO_BUILD_DIR) / "CMakeFiles";
  int scanned = 0;
  for (const auto& entry : fs::recursive_directory_iterator(objects)) {
    const std::string path = entry.path().string();
    if (entry.path().extension() != ".o" || path.find("opo_kernels_a") == std::string::npos) {
      continue;
    }
    ++scanned;
    std::istringstream symbols(Output("nm -C --defined-only '" + path + "' 2>/dev/null"));
    for (std::string line; std::getline(symbols, line);) {
      const std::size_t space = line.find(' ');
      if (space == std::string::npos || space + 1 >= line.size()) continue;
      const char kind = line[space + 1];
      // Templates and functions of the path's own namespace (isa_...) exist once. DW.ref is a
      // pointer to the exception runtime that sanitizers ask for: data, the same in every object.
      if (std::string("WwVvu").find(kind) != std::string::npos &&
          line.find("opo::isa_") == std::string::npos &&
          line.find("DW.ref.") == std::string::npos) {
        ADD_FAILURE() << entry.path().filename().string() << ": " << line;
      }
    }
  }
  if (scanned == 0) GTEST_SKIP() << "no object files of the kernels in " << objects;
}

}  // namespace
